// Labels compared with the image, as bars.

import { element, tell } from "../dom.js";
import { holding } from "../picture.js";
import { besides } from "../session.js";

export function start(place, session) {
  const form = place.querySelector("form");
  const box = place.querySelector("textarea");
  const compare = place.querySelector("button");
  const trouble = place.querySelector(".trouble");
  const notes = place.querySelector(".notes");
  const bars = place.querySelector(".bars");
  const spoken = place.querySelector("[role=status]");
  let leaving = new AbortController();
  let chosen = "sigmoid"; // where there is a choice

  async function show() {
    const labels = box.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!session.picture) return tell(trouble, "There is no image yet: choose one first.");
    if (labels.length === 0) return tell(trouble, "There are no labels yet: write one a line.");
    forget();
    compare.disabled = true;
    spoken.textContent = "Comparing.";
    const { signal } = leaving;
    try {
      const { model } = session;
      draw(model, await scored(session.picture, model, labels, signal));
    } catch (error) {
      if (!signal.aborted) {
        spoken.textContent = "";
        tell(trouble, error.message);
      }
    } finally {
      able();
    }
  }

  function scored(picture, model, labels, signal) {
    const scores = new FormData(form).get("scores");
    return holding([picture], async () => {
      const { url } = await picture.handOver(session.api, model);
      signal.throwIfAborted();
      return session.api.classify({ model: model.id, image: url, labels, scores }, signal);
    });
  }

  function draw(model, found) {
    const sorted = found.data[0].scores.toSorted((one, other) => other.score - one.score);
    bars.replaceChildren(...sorted.map(bar));
    notes.replaceChildren(...besides(model, found.warnings).map((text) => element("li", {}, text)));
    spoken.textContent = `Highest: ${sorted[0].label}, ${percent(sorted[0].score)}.`;
  }

  /** Scores of another image or model must not stand beside this one. */
  function forget() {
    leaving.abort();
    leaving = new AbortController();
    tell(trouble, null);
    bars.replaceChildren();
    notes.replaceChildren();
    spoken.textContent = "";
  }

  function able() {
    const { model } = session;
    const [sigmoid] = form.elements.scores;
    compare.disabled = !model?.capabilities.includes("classify");
    // The labels of a model that chats compete: it has no score of one by itself.
    sigmoid.disabled = Boolean(model?.capabilities.includes("generate"));
    form.elements.scores.value = sigmoid.disabled ? "softmax" : chosen;
  }

  form.addEventListener("change", (event) => {
    if (event.target.name === "scores") chosen = event.target.value;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!compare.disabled) show();
  });
  form.addEventListener("change", ({ target }) => {
    if (target.name === "scores") forget(); // of one kind must not stand beneath the other
  });
  session.addEventListener("over", () => {
    box.value = "";
  });
  session.watch(["model", "picture"], () => {
    forget();
    able();
  });
}

function bar({ label, score }) {
  const filled = element("span", { className: "filled" });
  filled.style.setProperty("--share", score);
  return element(
    "li",
    {},
    element("span", { className: "name" }, label),
    element("span", { className: "score" }, percent(score)),
    element("span", { className: "track", ariaHidden: "true" }, filled),
  );
}

/** Rounded, but never to none or all. */
function percent(score) {
  if (score < 0.00005) return "< 0.01 %";
  if (score > 0.9995) return "> 99.9 %";
  return `${(100 * score).toFixed(score < 0.0995 ? 2 : 1)} %`;
}
