// The image: chosen, dropped or pasted; encoded by the chosen model at once, before there is a question.

import { duration, element, tell } from "../dom.js";
import { Picture } from "../picture.js";
import { besides } from "../session.js";

const IN_CONVERSATION = "In the conversation. Another image joins it; for another patient, start over.";

export function start(place, session) {
  const input = place.querySelector("input");
  const drop = place.querySelector(".drop");
  const bar = place.querySelector("progress");
  const state = place.querySelector(".state");
  const trouble = place.querySelector(".trouble");
  const notes = place.querySelector(".notes");
  const again = place.querySelector("[data-does=again]");
  const remove = place.querySelector("[data-does=remove]");
  const stretch = place.querySelector("[data-does=stretch]");
  const preview = previewed(place.querySelector("figure"), session);
  let running = 0;

  function take(files) {
    if (files.length === 0) return;
    if (files.length > 1) return tell(trouble, "One image at a time, please: which of these is meant?");
    if (session.picture?.asked === false) session.picture.release();
    session.change("picture", new Picture(files[0]));
  }

  /** Show which image there is, and have the chosen model encode it. */
  function show() {
    const { picture, model } = session;
    input.value = "";
    tell(trouble, null);
    again.hidden = bar.hidden = stretch.hidden = true;
    state.textContent = "";
    notes.replaceChildren();
    drop.querySelector("label").textContent = picture ? "Choose another image" : "Choose an image";
    place.classList.toggle("given", Boolean(picture));
    preview(picture);
    buttons();
    if (picture && model) encode(picture, model);
  }

  function buttons() {
    const { picture } = session;
    remove.hidden = !picture || picture.asked;
    if (picture?.asked) stretch.hidden = true; // what was said of it was said of how it was shown
    if (picture?.asked && bar.hidden) state.textContent = IN_CONVERSATION;
  }

  async function encode(picture, model) {
    const current = () => session.picture === picture && session.model?.id === model.id;
    const begun = performance.now();
    work(1);
    bar.hidden = false;
    progress(0);
    try {
      const held = await picture.handOver(session.api, model, (share) => current() && progress(share));
      if (!current()) return;
      bar.hidden = true;
      state.textContent = picture.asked ? IN_CONVERSATION : ready(model, performance.now() - begun);
      stretch.hidden = picture.asked || !held.warnings.some(canBeStretched);
      notes.replaceChildren(...besides(model, held.warnings).map((text) => element("li", {}, text)));
    } catch (error) {
      if (!current() || error.name === "AbortError") return;
      bar.hidden = true;
      state.textContent = "";
      tell(trouble, error.message);
      again.hidden = false;
    } finally {
      work(-1);
    }
  }

  function work(more) {
    running += more;
    session.change("encoding", running > 0);
  }

  function progress(share) {
    if (share < 1) {
      bar.value = share;
      state.textContent = "Sending…";
    } else {
      bar.removeAttribute("value"); // nobody knows how long it takes
      state.textContent = "Encoding…";
    }
  }

  input.addEventListener("change", () => take([...input.files]));
  again.addEventListener("click", show);
  stretch.addEventListener("click", () => {
    session.picture.stretch();
    session.change("picture", session.picture);
    input.focus();
  });
  remove.addEventListener("click", () => {
    session.picture.release();
    session.change("picture", null);
    input.focus();
  });
  accept(drop, take);
  session.addEventListener("asked", buttons);
  session.watch(["picture", "model"], show);
}

/** Whether a warning is of contrast, and the image's own least and greatest value would mend it. */
function canBeStretched(warning) {
  return warning.includes("WRONG CONTRAST") && warning.includes('"auto"');
}

function ready(model, ms) {
  return model.capabilities.includes("generate")
    ? `Encoded in ${duration(ms)}: ask about it.`
    : "With the server: compare labels with it.";
}

function previewed(figure, session) {
  const image = figure.querySelector("img");
  const caption = figure.querySelector("figcaption");
  image.addEventListener("error", () => {
    image.hidden = true; // most browsers show no TIFF
    caption.textContent = `${session.picture?.name ?? ""}: this browser cannot show it.`;
  });
  return (picture) => {
    figure.hidden = !picture;
    if (!picture) return image.removeAttribute("src");
    if (image.src === picture.url) return;
    image.hidden = false;
    image.src = picture.url;
    image.alt = `The image given: ${picture.name}`;
    caption.textContent = picture.name;
  };
}

/** Files that are dropped anywhere or pasted; a browser would otherwise leave the page to show a dropped one. */
function accept(drop, take) {
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
}
