// The page: keeps itself for use without a network, tests the model, then scores images that the user chooses.

import { pixelsOf } from "./pixels.js";

const place = (id) => document.getElementById(id);
const state = (text) => { place("state").textContent = text; };

/** Show a sentence in an element that is hidden while there is none. */
function tell(id, sentence) {
  place(id).textContent = sentence ?? "";
  place(id).hidden = !sentence;
}

/** Rounded, but never to none or all. */
function percent(score) {
  if (score < 0.00005) return "< 0.01 %";
  if (score > 0.9995) return "> 99.9 %";
  return `${(100 * score).toFixed(score < 0.0995 ? 2 : 1)} %`;
}

/** A time as people read one. */
function duration(ms) {
  return ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
}

const counted = (threads) => `${threads} ${threads === 1 ? "thread" : "threads"}`;

/** Have the service worker keep every file. It also sets the headers without which there are no threads. */
async function kept() {
  const workers = navigator.serviceWorker;
  if (!workers) return; // no secure context: the page works, with one thread and a network
  const controlled = Boolean(workers.controller);
  const failed = new Promise((resolve, reject) => {
    workers.addEventListener("message", ({ data }) => {
      if (controlled) tell("news", `A newer version of this app cannot be kept: ${data}.`);
      else reject(new Error(`This app cannot be kept: ${data}. Load it again.`));
    });
  });
  const registration = await workers.register("service-worker.js", { updateViaCache: "none" });
  if (controlled) {
    announce(registration);
    registration.addEventListener("updatefound", () => announce(registration));
    return;
  }
  state("Keeping the model for use without a network.");
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  await Promise.race([failed, reached(worker, "activated")]);
  if (!workers.controller) {
    const controlling = new Promise((resolve) => {
      workers.addEventListener("controllerchange", resolve, { once: true });
    });
    worker.postMessage("claim");
    await controlling;
  }
  location.replace("./"); // Chromium keeps a page that reloads itself, and brings it back at the user's next reload
  await new Promise(() => {}); // until it does
}

/** Resolves when a service worker is in a state; where its installation fails, it says itself why. */
function reached(worker, wanted) {
  return new Promise((resolve) => {
    const look = () => { if (worker.state === wanted) resolve(); };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** Say that another version waits: a tab whose files changed under it would mix the two. */
async function announce(registration) {
  const newer = registration.installing ?? registration.waiting;
  if (!newer) return;
  await reached(newer, "installed");
  tell("news", "A newer version of this app is here. It takes over when all tabs and windows of this one are closed.");
}

/** Why there is one thread, where there is no more than that. */
function withoutThreads(threads) {
  if (threads > 1) return null;
  if (!isSecureContext) {
    return "One thread, and nothing is kept for use without a network: this page was opened neither by https nor " +
      "from localhost.";
  }
  return `One thread: ${crossOriginIsolated ? "this device has one core" : "this browser gives this page no more"}.`;
}

/** The model in a thread of its own: what it answers is a promise. */
class Scorer {
  #worker = new Worker("scorer.js", { type: "module" });
  #waiting = [];

  constructor() {
    this.#worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.#waiting.shift();
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error(event.message || "the worker cannot start"));
    };
  }

  ask(message, transferred = []) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#worker.postMessage(message, transferred);
    });
  }

  score(pixels) {
    return this.ask({ pixels }, [pixels.data.buffer]);
  }
}

function describe(model) {
  place("title").textContent = document.title = model.title;
  tell("stand-in", model.stand_in);
  place("level").textContent = model.level;
  place("parity").textContent = model.parity;
  place("license").textContent = model.license;
  place("modified").textContent = model.modified;
  place("terms").hidden = !model.terms;
}

/** Whether this device's runtime gives the logits that the model was packed with. */
async function tested(model, scorer) {
  let worst = 0;
  for (const [number, name] of model.test.images.entries()) {
    const response = await fetch(name);
    const { logits } = await scorer.score(await pixelsOf(await response.blob()));
    const apart = model.test.logits[number].map((expected, at) => Math.abs(expected - logits[at]));
    worst = Math.max(worst, ...apart);
  }
  if (!(worst <= model.test.tolerance)) { // no number is no pass either
    throw new Error(`The self-test failed: logits differ by ${worst.toPrecision(2)} on this device. Do not use it.`);
  }
  return worst;
}

function draw(model, { scores, ms, threads }) {
  const highest = scores.indexOf(Math.max(...scores));
  place("scores").replaceChildren(...model.labels.map((label, at) => row(label, scores[at], at === highest)));
  place("time").textContent = `${duration(ms)}, ${counted(threads)}`;
  place("time").dataset.ms = ms;
  state(`Highest: ${model.labels[highest]}, ${percent(scores[highest])}.`);
}

function row(label, score, isHighest) {
  const item = document.createElement("li");
  item.className = isHighest ? "highest" : "";
  item.dataset.score = score;
  const parts = { name: label, score: percent(score) };
  for (const [name, text] of Object.entries(parts)) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    item.append(part);
  }
  const meter = document.createElement("meter");
  meter.value = score;
  meter.ariaLabel = label;
  item.append(meter);
  return item;
}

async function show(model, scorer, file) {
  const image = place("shown");
  URL.revokeObjectURL(image.src);
  place("scores").replaceChildren(); // scores of another image must not stand beside this one
  place("time").textContent = "";
  tell("trouble", null);
  tell("note", null);
  image.parentElement.hidden = true;
  state("Scoring.");
  try {
    const pixels = await pixelsOf(file);
    tell("note", pixels.note);
    image.src = URL.createObjectURL(file);
    image.parentElement.hidden = false;
    draw(model, await scorer.score(pixels));
  } catch (error) {
    state("");
    tell("trouble", error.message);
  }
}

async function start() {
  try {
    await kept();
    state("Loading the model.");
    const model = await (await fetch("model.json")).json();
    describe(model);
    const scorer = new Scorer();
    const { threads, version, ms } = await scorer.ask({ load: model.files });
    state("Testing the model.");
    const worst = await tested(model, scorer);
    tell("threads", withoutThreads(threads));
    const loaded = `loaded in ${duration(ms)}; self-test within ${worst.toPrecision(1)}`;
    place("runtime").textContent = `onnxruntime-web ${version}, ${counted(threads)}, ${loaded}`;
    const input = place("file");
    input.addEventListener("change", async () => {
      if (!input.files[0]) return;
      input.disabled = true;
      await show(model, scorer, input.files[0]);
      input.disabled = false;
    });
    input.disabled = false;
    state("Ready.");
  } catch (error) {
    state("");
    tell("trouble", error.message);
  }
}

start();
