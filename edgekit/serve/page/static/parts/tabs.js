// Asking and comparing labels: a model may be able to do one of them, or both.

const NEEDS = { "tab-ask": "generate", "tab-labels": "classify" };

export function start(place, session) {
  const tabs = [...place.querySelectorAll("[role=tab]")];

  function show(tab) {
    for (const one of tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", chosen);
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
  }

  function able() {
    return tabs.filter((tab) => session.model?.capabilities.includes(NEEDS[tab.id]));
  }

  place.addEventListener("click", (event) => {
    if (tabs.includes(event.target)) show(event.target);
  });
  place.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const here = able();
    const next = here[(here.indexOf(event.target) + step + here.length) % here.length];
    show(next);
    next.focus();
  });
  session.addEventListener("model", () => {
    const here = able();
    for (const tab of tabs) tab.disabled = !here.includes(tab);
    if (here.length && !here.some((tab) => tab.ariaSelected === "true")) show(here[0]);
  });
}
