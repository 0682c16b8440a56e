// The conversation: ask, watch the answer come, stop it, go on asking.

import { messages, Turn } from "../conversation.js";
import { holding } from "../picture.js";
import { TurnView } from "./turns.js";

export function start(place, session) {
  const form = place.querySelector("form");
  const box = place.querySelector("textarea");
  const ask = place.querySelector("[data-does=ask]");
  const stop = place.querySelector("[data-does=stop]");
  const list = place.querySelector("ol");
  const empty = place.querySelector(".empty");
  const scroller = place.querySelector(".turns");
  const spoken = place.querySelector("[role=status]");
  const told = new Set(); // warnings that stand under an answer already
  let turns = []; // that were answered
  let current = null; // the one under way
  let leaving = new AbortController(); // ends it

  async function answer() {
    const picture = session.picture?.asked === false ? session.picture : null;
    const turn = new Turn(session.model, box.value.trim(), picture);
    const view = new TurnView(turn, told);
    begin(turn, view);
    try {
      await stream(turn, view, leaving.signal);
      turn.ended ??= "failed"; // nobody said that this was all
      follow(scroller, () => view.end());
    } catch (error) {
      follow(scroller, () => failed(turn, view, error));
    }
    if (current === turn) finish(turn); // else it was forgotten meanwhile
  }

  function begin(turn, view) {
    current = turn;
    leaving = new AbortController();
    if (turn.picture) turn.picture.asked = true;
    session.dispatchEvent(new Event("asked"));
    box.value = "";
    empty.hidden = true;
    list.append(view.element);
    view.element.scrollIntoView({ block: "start" });
    spoken.textContent = "Answering.";
    session.change("answering", true);
  }

  async function stream(turn, view, signal) {
    const all = [...turns, turn];
    const pictures = all.map((one) => one.picture).filter(Boolean);
    await holding(pictures, async () => {
      const said = await unless(signal, messages(all, session.api, turn.model));
      for await (const document of session.api.chat({ model: turn.model.id, messages: said }, signal)) {
        turn.take(document);
        follow(scroller, () => view.grow());
      }
    });
  }

  function failed(turn, view, error) {
    if (error.name === "AbortError") {
      turn.ended = "stopped";
      return view.end();
    }
    turn.ended = turn.answer ? "failed" : null;
    view.fail(error.message);
  }

  /** A turn with an answer is part of the conversation; without one, its question can be asked again. */
  function finish(turn) {
    current = null;
    if (turn.answer) turns.push(turn);
    else takeBack(turn);
    session.change("answering", false);
    spoken.textContent = turn.answer ? `${turn.whole ? "Answer" : "Incomplete answer"}: ${turn.answer}` : "No answer.";
  }

  function takeBack(turn) {
    box.value ||= turn.question;
    if (!turn.picture) return;
    turn.picture.asked = false;
    if (session.picture === turn.picture) session.change("picture", turn.picture);
    else turn.picture.release(); // another has taken its place
  }

  function forget() {
    leaving.abort();
    for (const turn of [...turns, current]) turn?.picture?.release();
    turns = [];
    current = null;
    told.clear();
    list.replaceChildren();
    box.value = "";
    empty.hidden = false;
    spoken.textContent = "Conversation and image are forgotten.";
    session.change("answering", false);
  }

  function buttons() {
    stop.hidden = !session.answering;
    ask.hidden = session.answering;
    ask.disabled = !session.model?.capabilities.includes("generate");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!session.answering && !ask.disabled && box.value.trim()) answer();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => {
    leaving.abort();
    box.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) leaving.abort();
  });
  session.addEventListener("over", forget);
  session.watch(["answering", "model"], buttons);
}

/** What a promise gives, unless somebody leaves before. */
function unless(signal, promise) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    promise.then(resolve, reject);
  });
}

/** Grow a list, and stay at its end if that is where the reader is. */
function follow(scroller, grow) {
  const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  grow();
  if (near) scroller.scrollTop = scroller.scrollHeight;
}
