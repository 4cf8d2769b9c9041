// The page: images are shrunk, sent in turns, and shown; what is shown changes without another request.
"use strict";
import { asCsv, asJson, makeCard, node, showError, showNote, showResult } from "./results.js";

const LOADED = 100, LOADED_WITH_BOXES = 30;  // tags of an image that the threshold can be moved over
const SHRINK_BYTES = 1_500_000, SHRINK_SIDE = 1600;
const TRIES = 6, MAX_WAIT_S = 30;
const $ = id => document.getElementById(id);
let limits = { max_images: 16, max_image_bytes: 16e6, max_request_bytes: 32e6 };
let files = [], items = [], running = null;

class Refusal extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}
function say(text) { $("status").textContent = text; }
function complain(text) { $("problem").textContent = text; }
function plural(number, word) { return `${number} ${word}${number === 1 ? "" : "s"}`; }
function mega(bytes) { return `${Math.round(bytes / 1e6)} MB`; }

async function ask(path, options = {}) {
  const key = $("key").value.trim();
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached", 0, 2);
  }
  const message = await answer.json().catch(() => null);
  if (answer.ok && message) return message;
  if (answer.status === 401) $("key-field").hidden = false;
  const text = message && message.error ? message.error.message : `the server answered with status ${answer.status}`;
  throw new Refusal(text, answer.status, Number(answer.headers.get("Retry-After")) || 2);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("", "AbortError")); });
  });
}

async function askAgain(path, options, signal) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask(path, { ...options, signal });
    } catch (error) {
      if (![0, 429, 503, 504].includes(error.status) || attempt === TRIES) throw error;
      const seconds = Math.min(MAX_WAIT_S, error.retryAfter * attempt);
      say(`${error.message}; trying again in ${seconds} s`);
      await pause(seconds, signal);
    }
  }
}

// A photo of a phone has 50 times the pixels that a model looks at.
async function shrink(item) {
  const file = item.file;
  if (file.size <= SHRINK_BYTES) return file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file;  // the server reads formats that the browser does not
  }
  const scale = Math.min(1, SHRINK_SIDE / Math.max(bitmap.width, bitmap.height)), canvas = node("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";  // behind what is transparent, as the server does
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const from = `${bitmap.width} x ${bitmap.height}`;
  bitmap.close();
  const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", .92));
  if (!blob || blob.size >= file.size) return file;
  item.note = `sent as ${canvas.width} x ${canvas.height}, ${(blob.size / 1e6).toFixed(1)} MB (from ${from}, ${(file.size / 1e6).toFixed(1)} MB)`;
  return blob;
}

async function* turns(signal) {
  let batch = [], bytes = 0;
  for (const item of items) {
    signal.throwIfAborted();
    const blob = await shrink(item);
    showNote(item);
    if (blob.size > limits.max_image_bytes) {
      showError(item, `it has ${mega(blob.size)}; an image may have ${mega(limits.max_image_bytes)}`);
      continue;
    }
    if (batch.length && (batch.length === limits.max_images || bytes + blob.size > .95 * limits.max_request_bytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push({ item, blob });
    bytes += blob.size;
  }
  if (batch.length) yield batch;
}

function form(batch, ownTags) {
  const body = new FormData(), boxes = $("regions").checked && !ownTags.length;
  for (const { item, blob } of batch) body.append("images", blob, item.name);
  for (const tag of ownTags) body.append("tags", tag);
  if ($("models").value) body.append("model", $("models").value);
  if ($("caption").checked) body.append("caption", "true");
  if (boxes) body.append("regions", "true");
  body.append("top_k", ownTags.length || (boxes ? LOADED_WITH_BOXES : LOADED));
  return body;
}

function ownTags() { return $("tags").value.split(",").map(tag => tag.trim()).filter(Boolean); }

function view() {
  return { own: $("own").checked, threshold: Number($("threshold").value), most: Number($("most").value) || Infinity };
}

async function send() {
  if (!files.length) return;
  if (running) running.abort();
  const abort = running = new AbortController(), tags = ownTags(), started = performance.now();
  for (const item of items) URL.revokeObjectURL(item.url);
  items = files.map(file => ({ file, name: file.name || "pasted image", url: URL.createObjectURL(file), ownTags: tags.length > 0 }));
  $("results").replaceChildren(...items.map(makeCard));
  $("results").ariaBusy = "true";
  $("view").hidden = true;
  $("go").disabled = true;
  complain("");
  let done = 0;
  const count = () => {
    $("progress").max = items.length;
    $("progress").value = done;
    $("turns").hidden = done === items.length || items.length <= limits.max_images;
    if (done < items.length) say(`Tagging ${plural(items.length, "image")}: ${done} done`);
  };
  count();
  try {
    for await (const batch of turns(abort.signal)) {
      const answer = await askAgain("v1/tag", { method: "POST", body: form(batch, tags) }, abort.signal);
      answer.images.forEach((result, index) => {
        const item = batch[index].item;
        item.result = result;
        if (result.error) showError(item, result.error.message);
        else showResult(item, view());
      });
      done += batch.length;
      count();
      $("view").hidden = false;
    }
  } catch (error) {
    if (running !== abort) return;  // another one has begun
    const stopped = error.name === "AbortError";
    for (const item of items) if (!item.result && !item.error) showError(item, stopped ? "stopped" : error.message);
    if (!stopped) complain(`${error.message}.`);
  }
  if (running !== abort) return;
  running = null;
  const failed = items.filter(item => item.error).length, tagged = items.length - failed;
  say(`${plural(tagged, "image")} tagged in ${((performance.now() - started) / 1000).toFixed(1)} s` +
      (failed ? `, ${failed} not` : ""));
  $("turns").hidden = true;
  $("view").hidden = !items.some(item => item.result || item.error);
  $("results").ariaBusy = "false";
  $("go").disabled = false;
}

function select(list) {
  const images = [...list].filter(file => file.type.startsWith("image/") || !file.type);
  if (!images.length) return complain(list.length ? "That is not an image." : "");
  files = images;
  send();
}

async function selectExample(path) {
  const answer = await fetch(path);
  select([new File([await answer.blob()], path.split("/").pop(), { type: answer.headers.get("Content-Type") })]);
}

function redraw() {
  const shown = view();
  $("threshold-value").textContent = shown.own ? "off" : shown.threshold.toFixed(2);
  $("threshold").setAttribute("aria-valuetext", shown.own ? `${shown.threshold}, not used` : String(shown.threshold));
  for (const item of items) showResult(item, shown);
}
let frame = 0;
function redrawSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(redraw);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {  // only pages over HTTPS or of this machine may use the clipboard
    $("text").value = text;
    $("text-dialog").showModal();
    $("text").select();
  }
}

function checkRegions() {
  const own = ownTags().length > 0;
  $("regions").disabled = own;
  $("regions").parentElement.classList.toggle("off", own);
  $("regions").parentElement.title = own ? "Boxes are for the tags of the model's list" : "";
}

async function start() {
  try {
    const [models, known] = await Promise.all([ask("v1/models"), ask("v1/limits")]);
    limits = known;
    const shown = models.models.find(model => model.default) || models.models[0];
    $("model").textContent = models.models.length > 1 ? "" : `${shown.name}, ${plural(shown.num_tags, "tag")}`;
    $("model-field").hidden = models.models.length < 2;
    $("models").replaceChildren(...models.models.map(model => {
      const option = node("option", "", `${model.name} (${plural(model.num_tags, "tag")})`);
      option.value = model.name;
      option.selected = model === shown;
      return option;
    }));
    $("limits").textContent =
      `${limits.formats.join(", ")}; up to ${mega(limits.max_image_bytes)} and ${Math.round(limits.max_pixels / 1e6)} million ` +
      `pixels each. Any number of images, sent ${limits.max_images} at a time; those over ${SHRINK_BYTES / 1e6} MB are ` +
      `shrunk to ${SHRINK_SIDE} pixels before. At most ${limits.max_own_tags} tags of your own.`;
    complain("");
  } catch (error) {
    complain(error.status === 401 ? "This server needs an API key: enter it in the field above." : `The server is not ready: ${error.message}.`);
  }
}

async function offerExamples() {
  const paths = await (await fetch("page/examples.json")).json();
  paths.forEach((path, index) => {
    const button = node("button"), image = node("img");
    button.type = "button";
    image.src = path;
    image.alt = `Example ${index + 1}`;
    button.append(image);
    button.addEventListener("click", () => selectExample(path));
    $("examples").append(button);
  });
  $("examples").hidden = !paths.length;
  const asked = location.hash.match(/^#example=(\d+)$/);
  if (asked && paths[asked[1] - 1]) selectExample(paths[asked[1] - 1]);
}

$("files").addEventListener("change", () => { select($("files").files); $("files").value = ""; });
for (const event of ["dragover", "dragleave", "drop"]) document.addEventListener(event, action => {
  action.preventDefault();
  $("drop").classList.toggle("over", event === "dragover");
  if (event === "drop" && action.dataTransfer.files.length) select(action.dataTransfer.files);
});
document.addEventListener("paste", event => { if (event.clipboardData.files.length) select(event.clipboardData.files); });
$("form").addEventListener("submit", event => { event.preventDefault(); send(); });
$("stop").addEventListener("click", () => running && running.abort());
$("tags").addEventListener("input", checkRegions);
$("threshold").addEventListener("input", () => { $("own").checked = false; redrawSoon(); });
for (const id of ["own", "most"]) $(id).addEventListener("input", redrawSoon);
$("copy-json").addEventListener("click", () => copy(asJson(items, view()), "JSON"));
$("copy-csv").addEventListener("click", () => copy(asCsv(items, view()), "CSV"));
$("key").value = sessionStorage.getItem("ram_ray key") || "";
$("key").addEventListener("change", () => { sessionStorage.setItem("ram_ray key", $("key").value.trim()); start(); });
checkRegions();
redraw();
await start();
await offerExamples();
