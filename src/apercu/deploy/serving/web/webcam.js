// The webcam: as soon as one frame is explained the next is taken, so that none is late; a frame is
// painted while the next is explained.

import { fitted, paint, pixelsOf, sheet, values } from "./paint.js";
import { decode, explainFrame } from "./source.js";
import { short } from "./names.js";
import { NONE, percent, signOf } from "./words.js";

const SIDE = 320;
const REFUSED = {
  NotAllowedError: "The webcam was not allowed. Allow it beside the address of this page, or choose a picture.",
  NotFoundError: "There is no webcam. Choose a picture instead.",
  NotReadableError: "The webcam is used by another program. Close it, or choose a picture.",
};
const at = (id) => document.getElementById(id);
let stream = null;

// Runs until stop(); asks dials() how to draw, and calls allowed() when there is a camera and
// begun() with the first frame. A refusal that will not pass ends it.
export async function start(dials, begun, allowed) {
  if (!navigator.mediaDevices) throw new Error("The webcam needs https, or this machine's own address.");
  const wish = { width: { ideal: 640 }, facingMode: { ideal: "environment" } };
  stream = await navigator.mediaDevices.getUserMedia({ video: wish, audio: false }).catch((error) => {
    throw new Error(REFUSED[error.name] ?? `The webcam could not start (${error.message || error.name}).`);
  });
  allowed();
  const video = at("video");
  video.srcObject = stream;
  await video.play();
  const own = stream;
  const times = [];
  let last = null;
  let empty = true;
  try {
    while (stream === own) {
      const next = take(video);
      const [record] = await Promise.all([patiently(next), last && draw(last, dials(), times)]);
      last = record && { ...next, record };
      if (empty && record) begun();
      empty &&= !record;
    }
  } finally {
    if (stream === own) stop();
  }
}

export function stop() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  at("rate").textContent = "";
}

function take(video) {
  const [width, height] = fitted({ width: video.videoWidth, height: video.videoHeight }, SIDE);
  const canvas = sheet(width, height);
  canvas.getContext("2d").drawImage(video, 0, 0, width, height);
  return { canvas, picture: pixelsOf(canvas, width, height) };
}

async function draw({ picture, record }, dials, times) {
  const [answer] = record.answers;
  const map = values(await decode(answer.map.png), picture.width, picture.height);
  if (stream === null) return;
  paint(at("lens"), picture, map, { ...dials, view: "overlay" });
  const { class: name, index, probability } = record.top[0];
  const nothing = map.every((value) => value < 255 * NONE) ? "; nothing here speaks for it" : "";
  at("seen").textContent = `${short(name, index)}, ${percent(probability, signOf(record))}${nothing}`;
  times.push(performance.now());
  if (times.length > 10) times.shift();
  const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
  if (times.length > 1) at("rate").textContent = `${rate.toFixed(1)} frames per second`;
}

// A frame's answer; none where the server is busy, after a pause.
async function patiently({ canvas, picture }) {
  try {
    return await explainFrame(canvas, picture);
  } catch (error) {
    if (![429, 503, 504].includes(error.status)) throw error;
    await new Promise((done) => setTimeout(done, 500));
    return null;
  }
}
