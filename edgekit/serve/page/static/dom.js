// Elements made from text: what a model or a server wrote becomes text nodes, never markup.

/** An element with properties; children are elements or texts. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Show a sentence in an element that is hidden while there is none. */
export function tell(place, sentence) {
  place.textContent = sentence ?? "";
  place.hidden = !sentence;
}

/** A time as people read one. */
export function duration(ms) {
  return ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
}
