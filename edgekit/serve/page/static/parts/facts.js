// What must be seen beside every answer: which level, how it was proven, whether it is a stand-in, its licence.

const FACTS = {
  level: (model) => model.level,
  parity: (model) => parity(model.parity),
  stand_in: (model) => model.stand_in,
  warnings: (model) => model.warnings.join(" "),
  licence: (model) => model.license.split("\n")[0],
};

export function start(place, session) {
  // What is scrolled to, or has the focus, must not lie beneath these facts.
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${place.offsetHeight + 8}px`;
  }).observe(place);
  session.addEventListener("model", () => {
    for (const fact of place.querySelectorAll("[data-fact]")) {
      const said = session.model && FACTS[fact.dataset.fact](session.model);
      fact.textContent = said ?? "";
      fact.parentElement.hidden = !said;
    }
  });
}

/** All that is known of a model, as names and texts. */
export function described(model) {
  return [
    ["Name", [model.id, ...model.aliases].join(", ")],
    ["Title", model.title],
    ["Level", model.level],
    ["Parity", parity(model.parity)],
    ["Stand-in", model.stand_in],
    ["Warning", model.warnings.join("\n")],
    ["Digest", model.digest],
    ["Context", model.context_length ? `${model.context_length} tokens` : null],
    ["Licence", model.license],
  ].filter(([, said]) => said);
}

/** Against the original at full precision: how far each part was found to be from it. */
function parity(parts) {
  const said = Object.entries(parts).map(([role, found]) => `${role.replaceAll("_", " ")} ${figure(found)}`);
  return Object.values(parts).some(Boolean) ? said.join(", ") : "not measured";
}

function figure(found) {
  if (!found) return "not measured";
  const { mean } = found.loss;
  return found.metric === "kl" ? `KL ${mean.toPrecision(2)}` : `cosine ${mean.toFixed(5)}`;
}
