// Large files of this folder: fetched once, kept by the browser, checked, and unpacked.

const STORE = "apercu";

const addressOf = (file) => new URL(`../${file.name}?${file.sha256}`, import.meta.url).href;

async function store() {
  try {
    return await caches.open(STORE);
  } catch {
    return null; // not offered here (http, private windows): files are fetched on each visit
  }
}

// How many bytes of some files are still to be downloaded.
export async function missing(files) {
  const kept = await store();
  let bytes = 0;
  for (const file of files) if (!(await kept?.match(addressOf(file)))) bytes += file.bytes;
  return bytes;
}

// The content of some files; report({ step, received, total }) is called on the way.
export async function download(files, report) {
  const kept = await store();
  const total = await missing(files);
  let received = 0;
  const contents = [];
  for (const file of files) {
    const address = addressOf(file);
    let blob = await (await kept?.match(address))?.blob();
    if (!blob) {
      blob = await fetchFile(file, address, (bytes) => {
        received += bytes;
        report({ step: "download", received: Math.min(received, total), total });
      });
      await kept?.put(address, new Response(blob)).catch(() => null); // a full disk: fetched again
      await forgetOlder(kept, address);
    }
    contents.push(await unpack(file, blob).catch(async (error) => {
      await kept?.delete(address);
      throw error;
    }));
  }
  return contents;
}

async function fetchFile(file, address, count) {
  let answer;
  const parts = [];
  try {
    answer = await fetch(address);
    if (answer.ok) {
      const reader = answer.body.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        parts.push(part.value);
        count(part.value.length);
      }
    }
  } catch {
    throw inWords(`The download of ${file.name} broke off; choose the picture again to go on.`);
  }
  if (!answer.ok) throw inWords(`${file.name} is missing on the server (${answer.status}); export the folder again.`);
  return new Blob(parts);
}

async function forgetOlder(kept, address) {
  const path = address.split("?")[0];
  for (const request of (await kept?.keys()) ?? []) {
    if (request.url.split("?")[0] === path && request.url !== address) await kept.delete(request);
  }
}

// Unpacks gzip, which some servers have already done, and compares the content with its SHA-256.
async function unpack(file, blob) {
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = first === 0x1f && second === 0x8b;
  const stream = packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  const content = await new Response(stream).arrayBuffer().catch(() => {
    throw inWords(`${file.name} is damaged; load this page again.`);
  });
  if (crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const text = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (text !== file.sha256) throw inWords(`${file.name} is damaged or of another export; load this page again.`);
  }
  return content;
}

function inWords(words) {
  return Object.assign(new Error(words), { words });
}
