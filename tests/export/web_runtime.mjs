// Runs graphs with onnxruntime-web, which browsers run too; test_other_runtimes.py starts this with Node.
//
// node web_runtime.mjs NODE_MODULES JOBS RESULTS: JOBS is JSON, a list of {file, inputs}, where an input is
// {dims, data}, float32; RESULTS becomes the list of their outputs in the same form.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, jobs, results] = process.argv.slice(2);
const ort = createRequire(import.meta.url)(resolve(modules, "onnxruntime-web"));
ort.env.wasm.numThreads = 1; // threads would keep Node from ending

const found = [];
for (const { file, inputs } of JSON.parse(readFileSync(jobs, "utf8"))) {
  const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
  const feeds = {};
  for (const [name, { dims, data }] of Object.entries(inputs)) {
    feeds[name] = new ort.Tensor("float32", Float32Array.from(data), dims);
  }
  const outputs = {};
  for (const [name, tensor] of Object.entries(await session.run(feeds))) {
    outputs[name] = { type: tensor.type, dims: tensor.dims, data: Array.from(tensor.data) };
  }
  found.push(outputs);
  await session.release();
}
writeFileSync(results, JSON.stringify(found));
