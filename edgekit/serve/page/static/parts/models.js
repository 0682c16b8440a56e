// Which model at which level answers. The server lists each level as a model of its own; here they stand together.

import { element, tell } from "../dom.js";

const UNSETTLED = new Set(["loading", "hanging", "restarting"]);
const POLL_MS = 1500;
const STATES = {
  unloaded: "Loaded when it is first asked.",
  loading: "Loading…",
  ready: "Ready.",
  hanging: "Its engine does not answer. If that goes on, it is started again.",
  restarting: "Its engine restarts…",
  failed: "It could not be loaded.",
};

export function start(place, session) {
  const [model, level] = place.querySelectorAll("select");
  const state = place.querySelector(".state");
  const trouble = place.querySelector(".trouble");
  let timer;
  let asked = 0;

  async function load() {
    clearTimeout(timer);
    const mine = ++asked;
    let again = false;
    try {
      const { data } = await session.api.models();
      if (mine !== asked) return; // a later one knows better
      session.change("models", data);
      tell(trouble, data.length ? null : "This server has no model.");
      choose(data.find((one) => one.id === session.model?.id) ?? preferred(data));
      again = session.answering || session.encoding || UNSETTLED.has(session.model?.status.state);
    } catch (error) {
      tell(trouble, error.status === 401 ? null : error.message);
      again = error.status !== 401;
    }
    if (again && mine === asked) timer = setTimeout(load, POLL_MS);
  }

  function choose(chosen) {
    fill(model, titles(session.models), titleOf(chosen));
    fill(level, levels(session.models, titleOf(chosen)), chosen?.id);
    const said = STATES[chosen?.status.state] ?? "";
    if (state.textContent !== said) state.textContent = said; // a live region speaks whenever it is written to
    const before = session.model;
    session.model = chosen;
    // A server that was started again may serve other files under this name.
    if (before?.id !== chosen?.id || before?.digest !== chosen?.digest) session.change("model", chosen);
  }

  model.addEventListener("change", () => choose(preferred(session.models, model.value)));
  level.addEventListener("change", () => choose(session.models.find((one) => one.id === level.value)));
  session.addEventListener("answering", load);
  session.addEventListener("encoding", load);
  session.addEventListener("unlocked", load);
  load();
}

/** Of all models, or those of one title, the level that its artifact opens with. */
function preferred(models, title) {
  const these = models.filter((one) => title === undefined || titleOf(one) === title);
  return these.find((one) => one.default) ?? these[0] ?? null;
}

function titleOf(model) {
  return model?.title;
}

function titles(models) {
  return [...new Set(models.map(titleOf))].map((title) => ({ value: title, text: title }));
}

/** The levels of one title; two folders may hold the same one, and are then told apart by their ids. */
function levels(models, title) {
  const same = models.filter((one) => titleOf(one) === title);
  const names = same.map((one) => one.level);
  return same.map((one, place) => {
    const twice = names.filter((name) => name === names[place]).length > 1;
    return { value: one.id, text: twice ? `${names[place]} (${one.id})` : names[place] };
  });
}

function fill(select, options, chosen) {
  const before = [...select.options].map((option) => option.value + option.text).join();
  if (before !== options.map((option) => option.value + option.text).join()) {
    select.replaceChildren(...options.map((option) => element("option", option)));
  }
  if (chosen) select.value = chosen;
  select.disabled = options.length === 0;
}
