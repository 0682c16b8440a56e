// The model, in a worker: the page stays awake while it computes. Answers come in the order of what was asked.

import * as ort from "./ort.wasm.min.mjs";

const MOST_THREADS = 8;
const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
ort.env.wasm.numThreads = threads;
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.logLevel = "error";

let session;

async function bytesOf(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function load([model, data]) {
  const began = performance.now();
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
  if (data) options.externalData = [{ path: data, data: await bytesOf(data) }];
  session = await ort.InferenceSession.create(await bytesOf(model), options);
  return { threads, version: ort.env.versions.web ?? ort.env.versions.common, ms: performance.now() - began };
}

async function score({ data, width, height }) {
  const image = new ort.Tensor("uint8", data, [1, height, width, 3]);
  const began = performance.now();
  const { scores, logits } = await session.run({ image }, ["scores", "logits"]);
  const ms = performance.now() - began;
  return { scores: Array.from(scores.data), logits: Array.from(logits.data), ms, threads };
}

let before = Promise.resolve();

globalThis.onmessage = ({ data }) => {
  before = before.then(() => (data.load ? load(data.load) : score(data.pixels))).then(
    (answer) => postMessage(answer),
    (error) => postMessage({ error: String(error?.message ?? error) }),
  );
};
