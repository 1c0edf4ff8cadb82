// What this page asks this machine: a worker explains, and no picture leaves the browser.

import { missing } from "./downloads.js";
import { greySheet, toBlob } from "./paint.js";

export const PROMISE = "Images are explained in this browser, on this machine: none is sent anywhere.";
export const FORMATS = "JPEG, PNG, WebP, GIF, BMP, AVIF.";

const TOP = 5;
const LOGIT_RANGE = 4;
// The smallest module with an instruction of SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const ISOLATED = "apercu.isolated";
const PATIENCE = 2000; // milliseconds for a service worker to begin

let about = null;
let progress = () => null;
let worker = null;
let questions = 0;
const open = new Map(); // questions that the worker has not answered

export function useToken() {
  return null; // nobody asks for one
}

// About the explainer: name, classes, colours, number of examples, and what is to be downloaded.
export async function served(report = () => null) {
  progress = report;
  check();
  await isolate();
  let answer;
  try {
    answer = await fetch("page.json");
    about = await answer.json();
  } catch {
    throw new Error("page.json is missing on the server or damaged; export the folder again.");
  }
  return { ...about, download: await missing(Object.values(about.files)) };
}

function check() {
  const able = typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(SIMD));
  const rest = typeof DecompressionStream === "function" && typeof OffscreenCanvas === "function";
  if (able && rest) return;
  const lack = able ? "DecompressionStream or OffscreenCanvas" : "WebAssembly with SIMD";
  throw new Error(`This browser cannot run the explainer: it has no ${lack}. Use a newer Firefox, Chrome, Edge or Safari.`);
}

// Several threads need two headers, which few static servers send: a service worker adds them.
// The page is loaded once more for that; where that does not help, one thread computes.
async function isolate() {
  if (window.crossOriginIsolated || !navigator.serviceWorker || wasTried()) return;
  const begun = navigator.serviceWorker.register("isolate.js").then(() => navigator.serviceWorker.ready);
  const late = new Promise((done) => setTimeout(done, PATIENCE, null));
  if (!(await Promise.race([begun, late]).catch(() => null))) return;
  window.location.reload();
  await new Promise(() => null);
}

// Whether this tab was loaded once more already; true where it cannot remember.
function wasTried() {
  try {
    const tried = sessionStorage.getItem(ISOLATED) !== null;
    sessionStorage.setItem(ISOLATED, "tried");
    return tried;
  } catch {
    return true;
  }
}

export async function example(number) {
  const answer = await fetch(`examples/${about.example_files[number]}`);
  if (!answer.ok) throw new Error(`examples: number ${number} is missing on the server`);
  return answer.blob();
}

// Explains an image (a Blob): the target, or the class predicted most. `format` is png or array.
export async function explain(image, { target, format = "png" } = {}) {
  const words = "This browser cannot read that file as a picture (perhaps DICOM, FITS, HEIC or PDF); save it as JPEG or PNG.";
  const index = target === undefined ? -1 : find(target);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const picture = await createImageBitmap(image, options).catch(() => {
    throw new Error(words);
  });
  return record(await ask(picture, index, [picture]), index, format);
}

// Explains a frame of the webcam: a canvas, and its pixels.
export async function explainFrame(_, picture) {
  return record(await ask(picture, -1, []), -1, "png");
}

// A map that explain() made, to be drawn.
export async function decode(map) {
  return map;
}

// The same as a file.
export function pngFile(map) {
  return toBlob(map, "image/png");
}

function ask(picture, target, transfer) {
  worker ??= hire();
  const number = ++questions;
  return new Promise((resolve, reject) => {
    open.set(number, { resolve, reject });
    worker.postMessage({ number, about, picture, target }, transfer);
  });
}

function hire() {
  const hired = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  hired.onmessage = ({ data }) => {
    if (data.step) progress(data);
    else if (data.broken) dismiss(hired, data.error);
    else {
      const { resolve, reject } = open.get(data.number);
      open.delete(data.number);
      if (data.error) reject(new Error(data.error));
      else resolve(data.result);
    }
  };
  hired.onerror = (event) => {
    event.preventDefault();
    const reason = event.message ?? "its script did not load";
    dismiss(hired, `The explainer stopped (${reason}); close other tabs and choose the picture again.`);
  };
  return hired;
}

// Ends a worker that cannot go on; the next picture begins anew with another.
function dismiss(hired, words) {
  hired.terminate();
  worker = null;
  for (const { reject } of open.values()) reject(new Error(words));
  open.clear();
}

// The worker's numbers as /v1/explain would answer.
function record({ size, probabilities, map }, target, format) {
  const named = (index) => ({ class: about.classes[index], index, probability: probabilities[index] });
  const order = Array.from(probabilities.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
  const [height, width] = about.size;
  const answer = { ...named(target < 0 ? order[0] : target), map: { png: greySheet(map, width, height) } };
  if (format === "array") answer.map.array = Array.from(map);
  const made = { explainer: about.explainer, read_by: "classifier", size, frames: 1, top: order.slice(0, TOP).map(named), answers: [answer] };
  if (about.several) made.predicted = order.filter((index) => probabilities[index] >= 0.5).map((index) => about.classes[index]);
  if (about.value_range) {
    const [low, high] = about.value_range;
    const [lower, higher] = Array.from(probabilities, (value) => Math.log(Math.max(value, 1e-38)));
    made.value = (low + high) / 2 + ((high - low) / LOGIT_RANGE) * (higher - lower);
  }
  return made;
}

// The index of a class that is given by its index, its name, or one of its synonyms.
function find(target) {
  if (typeof target === "number") return target;
  const plain = (text) => text.trim().toLowerCase();
  const word = plain(target);
  const lists = [about.classes.map((name) => [plain(name)]), about.classes.map((name) => name.split(",").map(plain))];
  for (const names of lists) {
    const index = names.findIndex((synonyms) => synonyms.includes(word));
    if (index >= 0) return index;
  }
  const [, synonyms] = lists;
  const near = synonyms.flat().map((name) => [distance(word, name), name]).sort(([one], [other]) => one - other)[0];
  const hint = near && near[0] <= Math.max(1, word.length / 3) ? `; did you mean ${near[1]}?` : "";
  throw new Error(`target: no class is called '${target}'${hint}`);
}

// How many letters must be changed to make one word of another (Levenshtein).
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let at = 1; at <= one.length; at++) {
    const next = [at];
    for (let to = 1; to <= other.length; to++) {
      next.push(Math.min(row[to] + 1, next[to - 1] + 1, row[to - 1] + (one[at - 1] !== other[to - 1])));
    }
    row = next;
  }
  return row.at(-1);
}
