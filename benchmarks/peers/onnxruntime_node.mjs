// A classifier in onnxruntime-node: node benchmarks/peers/onnxruntime_node.mjs FOLDER JOB ANSWER
//
// FOLDER has node_modules; JOB is JSON: {model, images: [{shape, path}], threads}, where a path is of a file of uint8.
// ANSWER is JSON: {load_ms, version, images: [{scores, ms}]}.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, jobPath, answerPath] = process.argv.slice(2);
const ort = createRequire(join(folder, "/"))("onnxruntime-node");
const { model, images, threads } = JSON.parse(readFileSync(jobPath, "utf-8"));
const began = performance.now();
const session = await ort.InferenceSession.create(model, threads ? { intraOpNumThreads: threads } : {});
const answer = { load_ms: performance.now() - began, version: ort.env.versions.node, images: [] };
for (const { shape, path } of images) {
  const image = new ort.Tensor("uint8", new Uint8Array(readFileSync(path)), shape);
  const started = performance.now();
  const { scores } = await session.run({ image });
  answer.images.push({ scores: Array.from(scores.data), ms: performance.now() - started });
}
writeFileSync(answerPath, JSON.stringify(answer));
