// The explainer in a thread of its own: loads ONNX Runtime and the graph, and computes maps.

import { download } from "./downloads.js";
import { resize } from "./resizing.js";

let opened = null;
let latest = null; // the picture before, as the classifier takes it
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};

async function answer({ number, about, picture, target }) {
  try {
    opened ??= open(about);
    const ready = await opened.catch((error) => {
      opened = null; // the next picture may try again
      throw error;
    });
    const result = await explain(ready, about, picture, target);
    self.postMessage({ number, result }, [result.map.buffer]);
  } catch (error) {
    const words = error.words ?? `The explainer failed (${error.message ?? error}); choose the picture again.`;
    self.postMessage({ number, error: words, broken: error.broken ?? !error.words });
  } finally {
    picture?.close?.();
  }
}

async function open({ files, runtime }) {
  const report = (words) => self.postMessage(words);
  const [graph, wasmBinary] = await download([files.graph, files.wasm], report);
  report({ step: "start" });
  try {
    const ort = await import(new URL(runtime.module, self.location));
    ort.env.wasm.wasmBinary = wasmBinary;
    ort.env.wasm.wasmPaths = { mjs: new URL(runtime.threads, self.location).href };
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    return { ort, session: await ort.InferenceSession.create(new Uint8Array(graph), options) };
  } catch (error) {
    const words = `The explainer could not start (${error.message ?? error}). It needs about 500 MB of memory: close other tabs, then choose the picture again.`;
    throw Object.assign(withWords(words), { broken: true });
  }
}

// Explains a picture; without one, the picture before.
async function explain({ ort, session }, { channels, size }, picture, target) {
  if (picture) {
    const { width, height } = picture;
    latest = null;
    latest = { size: { width, height }, pixels: resize(reader(picture), [height, width], { channels, size }) };
  }
  const results = await session.run({
    images: new ort.Tensor("float32", latest.pixels, [1, channels, ...size]),
    targets: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
  });
  return { size: latest.size, probabilities: results.probabilities.data.slice(), map: results.maps.data.slice() };
}

// Reads rows of ImageData or of an ImageBitmap, transparent parts over white.
function reader(picture) {
  const { width } = picture;
  if (picture.data) return (top, rows) => picture.data.subarray(4 * top * width, 4 * (top + rows) * width);
  return (top, rows) => {
    const pen = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
    if (pen === null) throw withWords("image: too large for this browser; resize it first");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, rows);
    pen.drawImage(picture, 0, -top);
    return pen.getImageData(0, 0, width, rows).data;
  };
}

function withWords(words) {
  return Object.assign(new Error(words), { words });
}
