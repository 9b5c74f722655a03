// The page: reads what is looked for, asks the gateway, shows what is found.

import * as api from "./client.js";
import { Detail } from "./detail.js";
import { $, el, icon, plural } from "./dom.js";
import { currentKey, forgetKey } from "./key.js";
import { QueryPicture } from "./query-picture.js";
import { card, skeletons } from "./results.js";
import { fresh, fromAddress, isQuery, tagFilter, toAddress, toRequest } from "./state.js";

let state = fresh();
let collections = [];
let running = null;
let pageToken = "";
let shown = [];
let example = "";

const NARROW = matchMedia("(max-width: 560px)");
const LONGEST_EXAMPLE = 44;

const detail = new Detail({
  onAlike: (image) => go({ text: "", picture: { kind: "stored", id: image.id }, region: null }),
  onSegment: (image, segment) => go({ text: "", picture: { kind: "stored", id: image.id }, region: { segment: segment.index } }),
  onTag: (tag) => go({ tags: [...new Set([...state.tags, tag])] }),
});

const queryPicture = new QueryPicture({
  onRegion: (region) => go({ region }),
  onRemove: () => go({ picture: null, region: null }),
});

/** Change what is looked for, remember it in the address, and look. */
function go(change) {
  state = { ...state, ...change };
  history.pushState({}, "", toAddress(state));
  render();
  run();
}

function render() {
  $("text").value = state.text;
  $("collection").value = state.collection;
  document.querySelector(`input[name="mode"][value="${state.mode}"]`).checked = true;
  $("top-k").value = [...$("top-k").options].some((each) => each.value === String(state.topK)) ? String(state.topK) : "24";
  $("tag-list").replaceChildren(...state.tags.map(tagChip));
  queryPicture.show(state.collection, state.picture, state.region);
  document.title = state.text ? `${state.text} · Saccade` : "Saccade";
}

function tagChip(tag) {
  const drop = () => go({ tags: state.tags.filter((each) => each !== tag) });
  return el("li", {}, el("button", { type: "button", class: "chip", "aria-label": `Remove the tag ${tag}`, click: drop }, tag, icon("close")));
}

/** Ask for the first page, or with `more` for the next one. */
async function run({ more = false } = {}) {
  running?.abort();
  const { signal } = (running = new AbortController());
  const searching = isQuery(state);
  clearError();
  $("more").hidden = true;
  document.body.classList.add("busy");
  if (!more) {
    shown = [];
    pageToken = "";
    $("summary").textContent = searching ? "Searching…" : "";
    $("plan").textContent = "";
    $("reading").textContent = "";
    $("results").replaceChildren(...skeletons(12));
  }
  $("results").setAttribute("aria-busy", "true");
  try {
    if (!state.collection) showNoCollection();
    else if (searching) await search(signal, more);
    else await browse(signal, more);
  } catch (error) {
    if (!signal.aborted) showError(error, () => run({ more }));
  } finally {
    $("forget-key").hidden = !currentKey();
    if (!signal.aborted) {
      $("results").removeAttribute("aria-busy");
      document.body.classList.remove("busy");
    }
  }
}

async function search(signal, more) {
  const { request, files } = toRequest(state, { pageToken: more ? pageToken : "", masks: $("outlines").value === "shape" });
  const started = performance.now();
  const answer = await api.search(state.collection, request, files, { signal });
  const seconds = (performance.now() - started) / 1000;
  pageToken = answer.next_page_token;
  add(answer.results.map((result) => ({ image: result.image, result })));
  const count = plural(shown.length, "result");
  $("summary").textContent = shown.length ? (pageToken ? `The best ${count}` : count) : "Nothing found";
  showPlan(answer.plan, seconds);
  if (!shown.length) showEmpty("Nothing here fits", state.tags.length ? "Try it without the tags, or in other words." : "Try other words, another picture, or another collection.");
}

async function browse(signal, more) {
  const filter = state.tags.length ? tagFilter(state.tags) : null;
  const page = await api.listImages(state.collection, { pageSize: state.topK, pageToken: more ? pageToken : "", filter, signal });
  pageToken = page.next_page_token;
  add(page.images.map((image) => ({ image, result: null })));
  const collection = collections.find((each) => each.name === state.collection);
  const count = Number(collection?.image_count || shown.length);
  $("summary").textContent = shown.length ? (filter ? "Pictures with these tags" : `${plural(count, "picture")} to search`) : "";
  $("plan").textContent = shown.length && Number(collection?.pending_count) ? `${collection.pending_count} more are being indexed` : "";
  suggestTags();
  suggestWords();
  if (!shown.length) {
    if (filter) showEmpty("No picture carries these tags", "Remove one of them.");
    else showEmpty("This collection is empty", `Load pictures with: saccade ingest FOLDER --collection ${state.collection}`);
  }
}

function add(entries) {
  if (!shown.length) $("results").replaceChildren();
  shown.push(...entries);
  $("results").append(...entries.map(makeCard));
  $("more").hidden = !pageToken;
}

function makeCard({ image, result }) {
  return card(image, {
    result,
    how: $("outlines").value,
    onOpen: () => detail.open(state.collection, image, result),
    onAlike: () => go({ text: "", picture: { kind: "stored", id: image.id }, region: null }),
  });
}

function showPlan(plan, seconds) {
  if (!plan) return;
  const inside = plan.timings.reduce((sum, timing) => sum + parseFloat(timing.duration), 0);
  const stages = plan.timings.map((timing) => `${timing.stage} ${milliseconds(parseFloat(timing.duration))}`);
  const how = plan.exact ? "compared with every vector" : plan.candidates ? `${plan.candidates.toLocaleString("en")} ranked` : "";
  const line = el("span", { title: [plan.reading && `Read as: ${plan.reading}`, ...stages, ...plan.searches.map(searched), plan.trace_id && `Trace ${plan.trace_id}`].filter(Boolean).join("\n") },
    el("b", {}, milliseconds(inside || seconds)), ...[...stages, how].filter(Boolean).map((text) => `  ·  ${text}`));
  $("plan").replaceChildren(line);
  // Words that were taken as they stand need no line of their own.
  const asWritten = [`text "${state.text}"`, `title "${state.text}"`].includes(plan.reading);
  $("reading").textContent = state.text && plan.reading && !asWritten ? `Read as: ${plan.reading}` : "";
  if (plan.degraded.length) $("plan").append(el("span", { class: "warn" }, `  ·  without ${plan.degraded.join(", ")}`));
}

const searched = (made) => `${made.what}: ${made.exact ? "every one compared" : `nprobe ${made.nprobe}`}, ${made.reason}`;

const milliseconds = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`);

function suggestTags() {
  const counts = new Map();
  for (const { image } of shown) for (const tag of image.tags) counts.set(tag.name, (counts.get(tag.name) || 0) + 1);
  const names = [...counts].sort((one, other) => other[1] - one[1]).map(([name]) => name);
  $("known-tags").replaceChildren(...names.slice(0, 60).map((name) => el("option", { value: name })));
}

/** The title of a picture that is there: a search for it finds something. */
function suggestWords() {
  const title = shown.map(({ image }) => image.title).find((each) => each && each.length <= LONGEST_EXAMPLE);
  example = title ? title.toLowerCase() : "";
  showPlaceholder();
}

function showPlaceholder() {
  const wide = example ? `Describe what you are looking for: ${example}` : "Describe what you are looking for";
  $("text").placeholder = NARROW.matches ? "Look for…" : wide;
}

function showEmpty(title, text) {
  $("results").replaceChildren(el("div", { class: "empty" }, el("strong", {}, title), text));
}

function showNoCollection() {
  $("summary").textContent = "";
  showEmpty("No collection yet", "Make one with: saccade ingest FOLDER --collection NAME");
}

function showError(error, again) {
  const where = [error.field && `Field ${error.field}`, error.reason, error.trace_id && `Trace ${error.trace_id}`];
  $("error").replaceChildren(el("strong", {}, headline(error)), sentence(error.message), el("small", {}, where.filter(Boolean).join("  ·  ")));
  if (!error.status || error.status === 401 || error.status === 429 || error.status >= 500) {
    $("error").append(el("button", { type: "button", class: "plain", click: again }, "Try again"));
  }
  $("error").hidden = false;
  if (!shown.length) {
    $("results").replaceChildren();
    $("summary").textContent = "";
  }
}

function headline(error) {
  if (error.status === 400 || error.status === 413) return "This can not be searched with";
  if (error.status === 401) return "A key is needed";
  if (error.status === 403) return "Not with this key";
  if (error.status === 429) return "Busy at the moment";
  if (error.status === 404) return "Not there";
  return error.title || "Something went wrong";
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function clearError() {
  $("error").hidden = true;
  $("error").replaceChildren();
}

const usePicture = (file) => go({ picture: { kind: "file", file }, region: null });

function useAddress(address) {
  $("address-row").hidden = true;
  $("by-address").setAttribute("aria-expanded", "false");
  go({ picture: { kind: "address", address }, region: null, text: "" });
}

const isAddress = (text) => /^https?:\/\/\S+$/i.test(text);

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (isAddress(text)) useAddress(text);
    else go({ text });
  });
  $("address-row").addEventListener("submit", (event) => {
    event.preventDefault();
    const address = $("address").value.trim();
    if (address) useAddress(address);
  });
  $("by-address").addEventListener("click", () => {
    $("address-row").hidden = !$("address-row").hidden;
    $("by-address").setAttribute("aria-expanded", String(!$("address-row").hidden));
    if (!$("address-row").hidden) $("address").focus();
  });
  $("pick").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) usePicture(file);
  });
  $("home").addEventListener("click", (event) => {
    event.preventDefault();
    go({ ...fresh(), collection: state.collection });
  });
  $("forget-key").addEventListener("click", () => {
    forgetKey();
    location.reload();
  });
  $("mode").addEventListener("change", (event) => go({ mode: event.target.value }));
  $("top-k").addEventListener("change", (event) => go({ topK: Number(event.target.value) }));
  $("collection").addEventListener("change", (event) => go({ ...fresh(), collection: event.target.value }));
  $("outlines").addEventListener("change", () => run());
  NARROW.addEventListener("change", showPlaceholder);
  $("more").addEventListener("click", () => run({ more: true }));
  $("tag").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && $("tag").value.trim()) addTag();
    if (event.key === "Backspace" && !$("tag").value && state.tags.length) go({ tags: state.tags.slice(0, -1) });
  });
  $("tag").addEventListener("change", () => $("tag").value.trim() && addTag());
  window.addEventListener("popstate", () => {
    const { collection } = state;
    state = fromAddress(location.search);
    state.collection ||= collection;
    render();
    run();
  });
  listenForPictures();
}

function addTag() {
  const tag = $("tag").value.trim();
  $("tag").value = "";
  go({ tags: [...new Set([...state.tags, tag])] });
}

function listenForPictures() {
  const pictureIn = (transfer) => [...(transfer?.files || [])].find((file) => file.type.startsWith("image/") || !file.type);
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => carriesFile(event) && show(1));
  document.addEventListener("dragleave", (event) => carriesFile(event) && show(-1));
  document.addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    show(-depth);
    const file = pictureIn(event.dataTransfer);
    if (file) usePicture(file);
  });
  document.addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    usePicture(file);
  });
}

async function start() {
  state = fromAddress(location.search);
  listen();
  showPlaceholder();
  $("results").replaceChildren(...skeletons(12));
  try {
    collections = await api.listCollections();
  } catch (error) {
    render();
    showError(error, () => location.reload());
    return;
  }
  const names = collections.map((each) => each.name);
  if (state.collection && !names.includes(state.collection)) names.unshift(state.collection);
  $("collection").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  state.collection ||= [...collections].sort((one, other) => Number(other.image_count) - Number(one.image_count))[0]?.name || "";
  render();
  await run();
}

start();
