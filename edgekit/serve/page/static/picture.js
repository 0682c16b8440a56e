// An image of the user's, and what was handed over of it.

const EXTENSIONS = { png: "png", jpg: "jpeg", jpeg: "jpeg", webp: "webp", tif: "tiff", tiff: "tiff", bmp: "bmp" };

/**
 * Do something with pictures that the server holds. It holds them for an hour, and only so many: if it refuses one,
 * they are handed over again, once.
 */
export async function holding(pictures, work) {
  try {
    return await work();
  } catch (error) {
    if (!error.param?.includes("image")) throw error;
    for (const picture of pictures) picture.forget();
    return work();
  }
}

export class Picture {
  asked = false; // whether it is part of the conversation
  range = null; // of its values, for a server that would show all that their type can hold
  #handed = new Map(); // model's id -> what the server says of the image, as a promise
  #held = new Set(); // ids, as far as they are known
  #left = new AbortController();
  #api = null;

  constructor(file) {
    const type = file.type || `image/${EXTENSIONS[file.name.split(".").pop().toLowerCase()] ?? "unknown"}`;
    this.blob = file.slice(0, file.size, type);
    this.name = file.name;
    this.url = URL.createObjectURL(this.blob);
  }

  /**
   * Have a model encode it, once; what the server says of it: the `url` that stands for it, `warnings`.
   * `sent` hears how much of it has been sent, from 0 to 1.
   */
  handOver(api, model, sent = () => {}) {
    if (!this.#handed.has(model.id)) {
      this.#api = api;
      const handing = this.#send(api, model, sent);
      this.#handed.set(model.id, handing);
      handing.catch(() => this.#handed.delete(model.id)); // so that it can be tried again
    }
    return this.#handed.get(model.id);
  }

  async #send(api, model, sent) {
    const image = await this.dataUrl();
    const held = await api.handOver({ model: model.id, image, range: this.range }, this.#left.signal, sent);
    this.#held.add(held.id);
    return held;
  }

  /** Show its own least and greatest value as black and white, from the next handing over on. */
  stretch() {
    this.range = "auto";
    this.forget();
  }

  /** The server holds it no more: the next who needs it hands it over again. */
  forget() {
    this.#handed.clear();
  }

  dataUrl() {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.addEventListener("load", () => resolve(reader.result));
      reader.addEventListener("error", () => reject(new Error("The browser cannot read this file.")));
      reader.readAsDataURL(this.blob);
    });
  }

  /** Stop whatever is under way with it, and let server and browser forget it. */
  release() {
    this.#left.abort();
    for (const id of this.#held) this.#api.remove(id); // now: a page that is being left does nothing later
    this.#held.clear();
    this.#handed.clear();
    URL.revokeObjectURL(this.url);
  }
}
