// The playground with a script: the answer as it arrives, a Stop button, the price of the chosen model.
"use strict";

const part = (id) => document.getElementById(id);
const form = part("play");
const LINES = "application/x-ndjson";
const LOGGED_OUT = "You are no longer logged in. Reload the page and log in; nothing was sent.";
const COST_SECONDS = 40; // how long the cost of a stopped answer is waited for
let stopper = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!stopper) ask();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
part("stop").addEventListener("click", () => stopper?.abort());

async function ask() {
  stopper = new AbortController();
  const seen = { request: "" };
  begin();
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new FormData(form), headers: { Accept: LINES }, signal: stopper.signal,
    });
    const type = answer.headers.get("Content-Type");
    if (type?.startsWith(LINES)) await read(answer.body, seen);
    else fail(answer.redirected ? LOGGED_OUT : refusalIn(await answer.text(), type, answer.status));
    end(part("failure").hidden ? "Complete" : "Not answered");
  } catch (error) {
    if (error.name === "AbortError") stopped(seen.request);
    else broke(seen.request);
  } finally {
    stopper = null;
  }
}

function begin() {
  part("send").disabled = true;
  part("stop").hidden = false;
  part("failure").hidden = part("nothing").hidden = part("answer").hidden = true;
  part("answer").textContent = "";
  part("facts").replaceChildren();
  part("progress").textContent = "Waiting for the first word …";
}

function end(words) {
  part("send").disabled = false;
  part("stop").hidden = true;
  part("progress").textContent = words;
}

async function read(body, seen) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => take(JSON.parse(line), seen));
  }
  if (rest.trim()) take(JSON.parse(rest), seen);
}

function take(line, seen) {
  if (line.request) seen.request = line.request;
  if (line.text) {
    const answer = part("answer");
    const follow = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
    if (answer.hidden) part("progress").textContent = "Answering …";
    answer.hidden = false;
    answer.append(line.text);
    if (follow) answer.scrollTop = answer.scrollHeight;
  }
  if (line.error) fail(line.error);
  if (line.facts) part("facts").innerHTML = line.facts; // escaped by the server's template
}

function fail(words) {
  part("failure").hidden = false;
  part("failure").querySelector("p").textContent = words;
}

function broke(request) {
  fail("The connection broke. If the request was in progress, it is charged all the same.");
  end("Not answered");
  if (request) waitForCost(request);
}

async function stopped(request) {
  end("Stopped");
  if (!request) return;
  part("facts").innerHTML = '<p class="hint skipped" id="waiting">Stopped. What the provider produced is charged all the same; ' +
    "its cost is known within half a minute.</p>";
  await waitForCost(request);
}

async function waitForCost(request) {
  await null; // the run that was stopped ends first
  for (const deadline = Date.now() + COST_SECONDS * 1000; Date.now() < deadline && !stopper;) {
    const answer = await fetch(`${form.action}?request=${encodeURIComponent(request)}`).catch(() => null);
    if (answer?.status === 200 && !stopper) {
      part("facts").innerHTML = await answer.text(); // escaped by the server's template
      return;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

// --- the model: its price beneath the field, the providers' own lists in the background

const model = form.elements.model;
const region = part("models-region");

function tell() {
  const name = model.value.trim();
  const known = [...document.querySelectorAll("#models option")].find((option) => option.value === name);
  const words = part("model-words");
  words.textContent = !name || name === "auto" ? words.dataset.auto
    : known ? known.dataset.words : "Not in the list; it is requested under this name.";
}

async function askForModels(address) {
  const open = region.querySelector("details").open;
  const answer = await fetch(address, { headers: { Accept: "text/fragment" } }).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  region.innerHTML = await answer.text(); // escaped by the server's template
  region.querySelector("details").open = open;
  tell();
}

model.addEventListener("input", tell);
region.addEventListener("toggle", (event) => { // it does not bubble: caught on its way down
  const link = region.querySelector("a[data-ask]");
  if (event.target.open && link) askForModels(link.href);
}, true);
region.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-model], a[data-ask]");
  if (!link) return;
  event.preventDefault();
  if ("ask" in link.dataset) return askForModels(link.href);
  model.value = link.dataset.model;
  tell();
  model.focus();
});
