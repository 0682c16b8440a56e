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

/** Have the service worker keep every file. It also sets the headers without which there are no threads. */
async function kept() {
  if (!navigator.serviceWorker) return; // no secure context: the page works, with one thread and a network
  const controlled = Boolean(navigator.serviceWorker.controller);
  const registration = await navigator.serviceWorker.register("service-worker.js", { updateViaCache: "none" });
  if (controlled) return;
  state("Keeping the model for use without a network.");
  await activated(registration.installing ?? registration.waiting ?? registration.active);
  if (!navigator.serviceWorker.controller) {
    await new Promise((resolve) => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    });
  }
  location.reload();
  await new Promise(() => {}); // until it does
}

function activated(worker) {
  return new Promise((resolve, reject) => {
    function look() {
      if (worker.state === "activated") resolve();
      if (worker.state === "redundant") {
        reject(new Error("A file of this app is damaged, incomplete, or does not fit on this device. Load it again."));
      }
    }
    worker.addEventListener("statechange", look);
    look();
  });
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
  place("time").textContent = `${duration(ms)}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
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
  image.parentElement.hidden = true;
  state("Scoring.");
  try {
    const pixels = await pixelsOf(file);
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
    const isolation = globalThis.crossOriginIsolated ? "" : " (this page was not opened in a secure context)";
    const loaded = `loaded in ${duration(ms)}; self-test within ${worst.toPrecision(1)}`;
    place("runtime").textContent = `onnxruntime-web ${version}, ${threads} threads${isolation}, ${loaded}`;
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
