// A repository of the hub in Transformers.js: node tests/transformers_js_pipeline.mjs FOLDER JOB ANSWER
//
// FOLDER has node_modules; JOB is JSON: {root, name, dtypes, images, texts}; ANSWER gets {images, texts} for each dtype,
// a vector each, as JSON. Nothing names a file of the repository: the library looks where it always does.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, jobPath, answerPath] = process.argv.slice(2);
const js = createRequire(join(folder, "/"))("@huggingface/transformers");
const job = JSON.parse(readFileSync(jobPath, "utf-8"));
js.env.allowRemoteModels = false;
js.env.localModelPath = job.root;

const tokenizer = await js.AutoTokenizer.from_pretrained(job.name);
const answers = {};
for (const dtype of job.dtypes) {
  const extract = await js.pipeline("image-feature-extraction", job.name, { dtype });
  const model = await js.SiglipTextModel.from_pretrained(job.name, { dtype });
  const ids = tokenizer(job.texts, { padding: "max_length", truncation: true, max_length: 64 });
  const images = await extract(job.images, { pool: true });
  const texts = (await model(ids)).pooler_output;
  answers[dtype] = { images: images.tolist(), texts: texts.tolist() };
}
writeFileSync(answerPath, JSON.stringify(answers));
