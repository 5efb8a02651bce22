/* Copy buttons: <button data-copy="ID" hidden>. They appear only where this script runs. */
"use strict";

function textOf(element) {
  return "value" in element ? element.value : element.textContent;
}

/* Away from HTTPS and localhost a browser has no clipboard object: then the older command copies a selection. */
function copySelected(element) {
  if ("select" in element) {
    element.select();
  } else {
    getSelection().selectAllChildren(element);
  }
  return document.execCommand("copy");
}

async function copy(element) {
  try {
    await navigator.clipboard.writeText(textOf(element));
    return true;
  } catch {
    return copySelected(element);
  }
}

function tell(button, done) {
  const word = button.querySelector("[data-word]");
  const status = document.querySelector("[data-copied]");
  word.textContent = done ? "Copied" : "Press Ctrl+C";
  if (status) status.textContent = done ? "Copied to the clipboard." : "It is selected: press Ctrl+C to copy it.";
  setTimeout(() => { word.textContent = "Copy"; }, 2500);
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    tell(button, await copy(document.getElementById(button.dataset.copy)));
  });
}
