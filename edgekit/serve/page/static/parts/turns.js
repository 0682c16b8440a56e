// How one question and its answer look. The answer grows by text nodes.

import { duration, element } from "../dom.js";
import { besides } from "../session.js";

const ENDS = {
  length: "Cut off. What stands here is not complete.",
  stopped: "Stopped. What stands here is not complete.",
  content_filter: "Ended by a filter.",
  failed: "Broken off. What stands here is not complete.",
};
const TOLD = "The model is told so with the next question.";

export class TurnView {
  /** `told` holds what was said under earlier answers, and above them: nobody reads a warning that always stands there. */
  constructor(turn, told) {
    this.turn = turn;
    this.told = told;
    this.answer = element("p", { className: "answer" });
    this.thoughts = element("p");
    this.thinking = element("details", { hidden: true }, element("summary", {}, "Thoughts"), this.thoughts);
    this.waiting = element("p", { className: "waiting" }, "Reading the question");
    this.notes = element("ul", { className: "notes" });
    this.meta = element("p", { className: "meta" });
    const asked = element("div", { className: "asked" }, element("h3", { className: "unseen" }, "You asked"));
    if (turn.picture) asked.append(thumbnail(turn.picture));
    asked.append(element("p", {}, turn.question));
    const answered = element("div", { className: "answered" }, element("h3", { className: "unseen" }, "Answer"));
    answered.append(this.waiting, this.thinking, this.answer, this.notes, this.meta);
    this.element = element("li", {}, asked, answered);
    this.element.setAttribute("aria-busy", "true");
  }

  /** Show what came since it was last called. */
  grow() {
    add(this.answer, this.turn.answer);
    add(this.thoughts, this.turn.thoughts);
    this.thinking.hidden = !this.turn.thoughts;
    if (this.turn.thoughts) this.waiting.textContent = "Thinking";
    this.waiting.hidden = Boolean(this.turn.answer);
  }

  /** The answer is over: say how it ended, and what is to be known of it. */
  end() {
    const { turn } = this;
    this.grow();
    this.waiting.hidden = true;
    this.element.setAttribute("aria-busy", "false");
    const nothing = turn.ended === "stop" && !turn.answer ? "The model said nothing." : null;
    const news = besides(turn.model, turn.warnings).filter((text) => !this.told.has(text));
    for (const text of news) this.told.add(text);
    const said = [ENDS[turn.ended], turn.answer && !turn.whole && TOLD, nothing, ...new Set(news)].filter(Boolean);
    this.notes.replaceChildren(...said.map((text) => element("li", {}, text)));
    this.meta.textContent = [turn.model.id, ...speed(turn.timings)].join(" · ");
  }

  /** Why there is no answer. */
  fail(message) {
    this.end();
    this.meta.before(element("p", { className: "trouble", role: "alert" }, message));
  }
}

function add(place, whole) {
  const more = whole.slice(place.textContent.length);
  if (more) place.append(more);
}

function thumbnail(picture) {
  const image = element("img", { src: picture.url, alt: `Image: ${picture.name}` });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "meta" }, picture.name)));
  return image;
}

function speed(timings) {
  if (!timings) return [];
  const said = [`first word after ${duration(timings.prompt_ms)}`];
  if (timings.predicted_per_second) said.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
  return said;
}
