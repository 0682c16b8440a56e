// A classifier in onnxruntime-node: node tests/onnxruntime_node.mjs FOLDER JOB ANSWER
//
// FOLDER has node_modules; JOB is JSON: {model, images: [{shape, data}]}; ANSWER gets the scores of each image as JSON.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, jobPath, answerPath] = process.argv.slice(2);
const ort = createRequire(join(folder, "/"))("onnxruntime-node");
const { model, images } = JSON.parse(readFileSync(jobPath, "utf-8"));
const session = await ort.InferenceSession.create(readFileSync(model));
const answers = [];
for (const { shape, data } of images) {
  const image = new ort.Tensor("uint8", Uint8Array.from(data), shape);
  const { scores } = await session.run({ image });
  answers.push(Array.from(scores.data));
}
writeFileSync(answerPath, JSON.stringify(answers));
