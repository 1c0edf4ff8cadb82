// The labelling view: image after image with its explanation, labelled by button or key.

import { FEW_KEYS, ask } from "./server.js";
import { distinguish, findClasses, short } from "./names.js";
import { element } from "./views.js";

const at = (id) => document.getElementById(id);
const CONFLICT = 409; // somebody else was faster, or the server was started anew
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// Shows the first image. `open(file, hooks)` displays and explains a file, `say` tells what happens,
// `trying` runs work and tells its error.
export function beginLabelling({ open, say, trying }) {
  let state = null;
  let shown = null; // number of the image that is displayed and may be labelled
  let busy = false;
  const page = findPage();

  const own = (address) => `${address}?page=${page}`;
  const send = (address, content) => ask(own(address), { method: "POST", body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });

  // Runs one change at a time, and displays what comes next.
  function change(work, words) {
    if (busy) return;
    busy = true;
    trying(async () => {
      try {
        state = await (await work()).json();
        at("labelled").textContent = words;
        await show();
      } catch (error) {
        if (error.status !== CONFLICT) throw error;
        state = await (await ask(own("label"))).json();
        at("labelled").textContent = "";
        await show();
        say(error.message, true);
      } finally {
        busy = false;
      }
    });
  }

  function label(index) {
    if (shown === null) return;
    change(() => send("label", { number: shown, class: index, session: state.session }), `${state.classes[index]}: written.`);
  }

  const skip = () => state?.next && change(() => send("label", { number: state.next.number, class: null, session: state.session }), "Passed over.");
  const undo = () => state?.can_undo && change(() => send("label/undo", {}), "Taken back.");

  async function show() {
    shown = null;
    const { next, labelled, total, skipped, can_undo, table } = state;
    at("counted").textContent = `${labelled.toLocaleString("en")} of ${count(total, "image")} labelled in ${table}${skipped ? `, ${skipped} passed over` : ""}.`;
    at("undo").disabled = !can_undo;
    at("skip").disabled = !next;
    at("answers").replaceChildren();
    at("other").hidden = true;
    at("reason").textContent = next ? `Chosen because it is ${next.reason}.` : "";
    at("task").textContent = next ? `Which class is ${next.file}?` : "All images are labelled or passed over. Train again, or bring further images.";
    if (!next) return open(null);
    const bytes = await (await ask(`label/${next.number}`)).arrayBuffer();
    await open(new File([bytes], next.file), (record) => {
      if (state.next?.number !== next.number) return;
      shown = next.number;
      offer(record);
    });
  }

  // Offers all classes in their order, or the most probable ones where there are more than keys.
  function offer(record) {
    const { classes } = state;
    const isFew = classes.length <= FEW_KEYS;
    const indices = isFew ? classes.map((_, index) => index) : record.top.slice(0, FEW_KEYS - 1).map(({ index }) => index);
    at("answers").replaceChildren(...indices.map((index, position) => answerItem(index, (position + 1) % 10, classes[index])));
    at("other").hidden = isFew;
  }

  function answerItem(index, key, name) {
    const mark = element("kbd", "", String(key));
    mark.setAttribute("aria-hidden", "true");
    const button = element("button", "", mark, short(name, index));
    button.dataset.key = String(key);
    button.setAttribute("aria-keyshortcuts", String(key));
    button.addEventListener("click", () => label(index));
    return element("li", "", button);
  }

  at("skip").addEventListener("click", skip);
  at("undo").addEventListener("click", undo);
  at("other").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = at("othername").value;
    const [index, ...others] = findClasses(state.classes, name);
    if (index === undefined) return say(`There is no class “${name}”; choose one of the list.`, true);
    if (others.length) return say(`“${name}” is ${others.length + 1} classes; choose one of the list.`, true);
    at("othername").value = "";
    label(index);
  });
  document.addEventListener("keydown", (event) => {
    if (!at("keys").checked || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target.closest?.("input:not([type=checkbox], [type=range]), textarea, select")) return;
    const key = event.key.toLowerCase();
    if (key === "s") skip();
    else if (key === "u") undo();
    else if (/^\d$/.test(key)) at("answers").querySelector(`[data-key="${key}"]`)?.click();
    else return;
    event.preventDefault();
  });
  at("labelling").hidden = false;
  return trying(async () => {
    state = await (await ask(own("label"))).json();
    distinguish(state.classes);
    at("othername").setAttribute("list", "answernames");
    at("answernames").replaceChildren(...state.classes.map((name) => new Option(name, name)));
    await show();
  });
}

// A name by which the server tells this tab from others; it stays when the page is loaded anew.
function findPage() {
  const drawn = () => [...crypto.getRandomValues(new Uint32Array(3))].map((number) => number.toString(36)).join("");
  return (sessionStorage.page ??= drawn());
}
