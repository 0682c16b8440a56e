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

/** Seconds as people read them. */
export function seconds(ms) {
  return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
}
