// What all parts share, and how they hear of a change. Nothing here outlives the page.

/**
 * Events: `models`, `model`, `picture`, `answering` and `encoding` when that changed; `asked` when a turn joined the conversation,
 * `over` when all is to be forgotten, `unlocked` when there is a key.
 */
export class Session extends EventTarget {
  models = []; // as /v1/models lists them
  model = null; // the chosen one of them
  picture = null; // a Picture
  answering = false;
  encoding = false;

  constructor(api) {
    super();
    this.api = api;
  }

  /** Set one of the above, and tell the others. */
  change(name, value) {
    this[name] = value;
    this.dispatchEvent(new Event(name));
  }

  /** Call a function now, and whenever one of these changes. */
  watch(names, call) {
    for (const name of names) this.addEventListener(name, () => call());
    call();
  }

  /** Forget conversation and image: for the next patient. */
  startOver() {
    this.dispatchEvent(new Event("over"));
    this.picture?.release();
    this.change("picture", null);
  }
}

/** Warnings beside those that the facts show all the time. */
export function besides(model, warnings) {
  const known = new Set([model.stand_in, ...model.warnings]);
  return warnings.filter((text) => !known.has(text));
}
