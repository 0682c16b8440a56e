// Our files in Transformers.js: node tests/transformers_js.mjs FOLDER JOB ANSWER
//
// FOLDER has node_modules; JOB is JSON: {root, name, runs: [{kind, options, inputs, method?}], texts}; ANSWER gets
// {runs: [{dims, data} by output, or {error}], ids} as JSON.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, jobPath, answerPath] = process.argv.slice(2);
const js = createRequire(join(folder, "/"))("@huggingface/transformers");
const job = JSON.parse(readFileSync(jobPath, "utf-8"));
js.env.allowRemoteModels = false;
js.env.localModelPath = job.root;

function tensor({ type, dims, data }) {
  return type === "int64"
    ? new js.Tensor(type, BigInt64Array.from(data, BigInt), dims)
    : new js.Tensor(type, Float32Array.from(data), dims);
}

async function run({ kind, options, inputs, method }) {
  const model = await js[kind].from_pretrained(job.name, options);
  const given = Object.fromEntries(inputs.map((one) => [one.name, tensor(one)]));
  const answer = method ? await model[method](given) : await model(given);
  const outputs = answer instanceof js.Tensor ? { output: answer } : answer;
  return Object.fromEntries(
    Object.entries(outputs).map(([name, value]) => [name, { dims: value.dims, data: Array.from(value.data) }]),
  );
}

const runs = [];
for (const one of job.runs) {
  runs.push(await run(one).catch((error) => ({ error: String(error) })));
}
const tokenizer = await js.AutoTokenizer.from_pretrained(job.name);
const encoded = tokenizer(job.texts, { padding: "max_length", truncation: true, max_length: 64 });
const ids = encoded.input_ids.tolist().map((row) => row.map(Number));
writeFileSync(answerPath, JSON.stringify({ runs, ids }));
