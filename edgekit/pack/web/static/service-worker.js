// Keeps every file, each compared with its SHA-256, and answers with them alone: nothing is asked of a network again.

importScripts("files.js"); // FILES: path -> SHA-256, and VERSION, a hash of all

const NAME = `edgekit-classifier-${VERSION}`;
const HEADERS = {
  // What a browser wants to see before it lets a page have threads with shared memory.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  // Of workers, too, which the page's own policy is not for.
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; " +
    "img-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'",
  "X-Content-Type-Options": "nosniff",
};

async function keep() {
  const cache = await caches.open(NAME);
  for (const [path, sha256] of Object.entries(FILES)) {
    if (await cache.match(path)) continue; // of an installation that was interrupted
    try {
      await cache.put(path, await fetched(path, sha256));
    } catch (error) {
      const why = `${path}: ${error.message || error.name}`; // the page hears no more than that its worker is gone
      for (const client of await clients.matchAll({ includeUncontrolled: true })) client.postMessage(why);
      throw error;
    }
  }
}

async function fetched(path, sha256) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`the server answers ${response.status}`);
  const content = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`its SHA-256 is ${found}, not ${sha256}`);
  return new Response(content, { headers: { ...HEADERS, "Content-Type": typeOf(path, response) } });
}

/** Whatever a simple server thinks of it: a module of another type is not run. */
function typeOf(path, response) {
  const types = { js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm", css: "text/css" };
  return types[path.split(".").at(-1)] ?? response.headers.get("Content-Type") ?? "";
}

async function answer(request) {
  const path = new URL(request.url).href.slice(registration.scope.length).split(/[?#]/)[0] || "index.html";
  const found = await caches.match(path, { cacheName: NAME });
  return found ?? new Response("", { status: 404, headers: HEADERS });
}

addEventListener("install", (event) => event.waitUntil(keep()));

addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const others = (await caches.keys()).filter((name) => name.startsWith("edgekit-classifier-") && name !== NAME);
    await Promise.all(others.map((name) => caches.delete(name)));
    await clients.claim();
  })());
});

addEventListener("message", (event) => event.waitUntil(clients.claim())); // of a page that was reloaded past it

addEventListener("fetch", (event) => {
  if (event.request.url.startsWith(registration.scope)) event.respondWith(answer(event.request));
  else event.respondWith(Response.error());
});
