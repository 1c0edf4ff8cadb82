// Similar cases beside an explanation: by the whole picture, and by the explained region.

import { pngFile } from "./source.js";
import { element } from "./views.js";

export const CASES = 6; // for each way to compare

const GROUPS = [
  ["by_features", "Similar cases, by the whole picture"],
  ["by_region", "Similar cases, by the region that speaks for the class"],
];
const addresses = []; // of the pictures that are displayed

// Displays the cases of a record; without any, the section is hidden.
export function showCases(section, cases) {
  for (const address of addresses.splice(0)) URL.revokeObjectURL(address);
  section.hidden = !cases;
  if (cases) section.replaceChildren(...GROUPS.flatMap(([key, title]) => [element("h2", "", title), listOf(cases[key], title)]));
}

function listOf(cases, title) {
  if (!cases.length) return element("p", "soft", "Nothing in the picture speaks for the class, so there is no region to compare.");
  const list = element("ol", "", ...cases.map(itemOf));
  list.setAttribute("aria-label", title);
  return list;
}

function itemOf({ name, label, predicted, distance, picture }) {
  const image = document.createElement("img");
  image.src = URL.createObjectURL(pngFile(picture)); // a JPEG; browsers look at the bytes
  addresses.push(image.src);
  image.alt = label ? `${label}: ${name}` : name;
  const words = label && predicted && label !== predicted ? `${label} (predicted ${predicted})` : label ?? (predicted ? `predicted ${predicted}` : name);
  const file = element("span", "soft", `distance ${distance.toFixed(distance >= 0.01 ? 3 : 5)}, ${name}`);
  return element("li", "", element("figure", "", image, element("figcaption", "", element("strong", "", words), file)));
}
