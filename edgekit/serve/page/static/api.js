// The server's API, as its other clients use it. The key lives in this object alone.

import { events } from "./sse.js";

const UNREACHABLE = "The server cannot be reached: is edgekit serve still running?";

/** What the server refused, as one sentence for people; `param` is the part of the request that it was about. */
export class ApiError extends Error {
  constructor(status, message, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export class Api extends EventTarget {
  #key = null;

  /** Use a key from now on; null forgets it. */
  use(key) {
    this.#key = key;
  }

  models() {
    return this.#json("v1/models");
  }

  classify(question, signal) {
    return this.#json("v1/classify", question, signal);
  }

  /** Have the server hold an image no longer; also while the page is being left. It would in an hour. */
  remove(id) {
    const options = { method: "DELETE", headers: this.#headers(), keepalive: true };
    return fetch(`v1/images/${encodeURIComponent(id)}`, options).catch(() => {});
  }

  terms() {
    return this.#json("terms");
  }

  /** Yields the documents of a streamed answer; ends when the server has said that it is complete. */
  async *chat(question, signal) {
    const response = await this.#fetch("v1/chat/completions", { ...question, stream: true }, signal);
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        const document = JSON.parse(data);
        if (document.error) throw new ApiError(response.status, sentence(document), document.error.param);
        yield document;
      }
    } catch (error) {
      throw named(error);
    }
    throw new ApiError(0, "The server broke off: this answer is not complete.");
  }

  /**
   * Hand an image over before the question, which encodes it at once.
   * fetch cannot say how much of a body was sent, XMLHttpRequest can.
   */
  handOver(body, signal, sent) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", "v1/images");
      request.responseType = "json";
      for (const [name, value] of Object.entries(this.#headers(body))) request.setRequestHeader(name, value);
      request.upload.addEventListener("progress", (event) => sent(event.loaded / event.total));
      request.upload.addEventListener("load", () => sent(1));
      request.addEventListener("load", () => {
        if (request.status < 400 && request.response) resolve(request.response);
        else reject(this.#refused(request.status, request.response, request.getResponseHeader("Retry-After")));
      });
      request.addEventListener("error", () => reject(new ApiError(0, UNREACHABLE)));
      request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
      signal.addEventListener("abort", () => request.abort());
      request.send(JSON.stringify(body));
    });
  }

  #headers(body) {
    return {
      ...(body && { "Content-Type": "application/json" }),
      ...(this.#key && { Authorization: `Bearer ${this.#key}` }),
    };
  }

  async #json(path, body, signal) {
    return (await this.#fetch(path, body, signal)).json().catch((error) => { throw named(error); });
  }

  async #fetch(path, body, signal) {
    const options = { headers: this.#headers(body), cache: "no-store", signal };
    if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      throw named(error);
    }
    if (response.ok) return response;
    throw this.#refused(response.status, await response.json().catch(() => null), response.headers.get("Retry-After"));
  }

  #refused(status, document, retryAfter) {
    if (status === 401) this.dispatchEvent(new Event("locked"));
    const wait = retryAfter ? ` Try again in ${retryAfter} s.` : "";
    return new ApiError(status, sentence(document, status) + wait, document?.error?.param);
  }
}

function sentence(document, status) {
  const said = document?.error?.message?.trim().replace(/\s*\n\s*/g, "; ");
  if (!said) return `The server answered ${status} without a reason.`;
  return said[0].toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}

/** A failure as it is told; one that was asked for stays what it is. */
function named(error) {
  if (error.name === "AbortError" || error instanceof ApiError) return error;
  if (error instanceof SyntaxError) return new ApiError(0, "The server's answer cannot be read: is it edgekit?");
  return new ApiError(0, UNREACHABLE);
}
