// Calls to the gateway; what fails is thrown as a Problem.

import { askForKey, currentKey } from "./key.js";

export class Problem extends Error {
  constructor(members) {
    super(members.detail || members.title || "Something went wrong");
    Object.assign(this, members);
  }
}

async function call(path, options = {}) {
  const key = currentKey();
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "No connection", detail: "The gateway does not answer.", reason: "UNREACHABLE" });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const problem = new Problem({ title: response.statusText, status: response.status, ...body });
  if (response.status === 401 && (await askForKey(key, problem.message))) return call(path, options);
  throw problem;
}

const at = (collection) => `/v1/collections/${encodeURIComponent(collection)}`;

export async function listCollections() {
  const found = [];
  let token = "";
  do {
    const page = await call(`/v1/collections?page_size=1000&page_token=${encodeURIComponent(token)}`);
    found.push(...page.collections);
    token = page.next_page_token;
  } while (token);
  return found;
}

export const listImages = (collection, { pageSize, pageToken = "", filter = null, signal }) => {
  const query = new URLSearchParams({ page_size: pageSize, page_token: pageToken });
  if (filter) query.set("filter", JSON.stringify(filter));
  return call(`${at(collection)}/images?${query}`, { signal });
};

export const getImage = async (collection, id, { signal } = {}) =>
  (await call(`${at(collection)}/images/${encodeURIComponent(id)}?include_masks=true`, { signal })).image;

/** `files` are named by the field that they fill, such as `parts.0.image`. */
export function search(collection, request, files, { signal }) {
  const entries = Object.entries(files);
  if (!entries.length) {
    const headers = { "Content-Type": "application/json" };
    return call(`${at(collection)}/search`, { method: "POST", headers, body: JSON.stringify(request), signal });
  }
  const form = new FormData();
  form.set("request", JSON.stringify(request));
  for (const [name, file] of entries) form.set(name, file);
  return call(`${at(collection)}/search`, { method: "POST", body: form, signal });
}

export async function segment(collection, file, { signal }) {
  const form = new FormData();
  form.set("image", file);
  return (await call(`${at(collection)}/segment`, { method: "POST", body: form, signal })).segments;
}
