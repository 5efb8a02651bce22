// Opens the form behind a link marked `data-dialog` in a dialog, over the page that keeps refreshing below. Without
// this script, and with a modifier key, the link leads to the same form as a page.
"use strict";

(() => {
  const dialog = document.createElement("dialog");
  dialog.className = "dialog";
  dialog.setAttribute("aria-labelledby", "dialog-title");
  let opener = "";

  const inside = (url, options = {}) =>
    fetch(url, { ...options, headers: { "X-Dialog": "1" }, credentials: "same-origin" });

  async function open(link) {
    opener = link.id;
    const answer = await inside(link.href).catch(() => null);
    if (!answer || !answer.ok || answer.redirected) {
      location.assign(link.href); // logged out, or no longer there: the page says which
      return;
    }
    fill(await answer.text());
    if (!dialog.open) dialog.showModal();
    (dialog.querySelector("[autofocus]") ?? dialog.querySelector("input:not([type=hidden])"))?.focus();
  }

  function fill(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    dialog.replaceChildren(...parsed.body.childNodes);
    window.keyForms();
    dialog.querySelector("form").addEventListener("submit", submit);
  }

  async function submit(event) {
    event.preventDefault();
    const form = event.currentTarget;
    const button = form.querySelector(".form-foot [type=submit]");
    button.disabled = true;
    const answer = await inside(form.action, { method: "POST", body: new FormData(form) }).catch(() => null);
    const goal = answer?.headers.get("X-Go");
    if (goal) {
      leave(goal);
    } else if (answer?.ok && !answer.redirected) {
      fill(await answer.text());
      dialog.querySelector("[aria-invalid=true], .note.bad")?.focus();
      dialog.querySelector("[aria-invalid=true]")?.scrollIntoView({ block: "center" });
    } else {
      button.disabled = false;
      failed(form);
    }
  }

  function leave(goal) {
    const here = location.pathname;
    if (!here.endsWith(goal.split("#")[0])) {
      location.reload(); // a key's own page shows the change itself
      return;
    }
    location.hash = goal.split("#")[1] ?? "";
    location.reload();
  }

  function failed(form) {
    const note = document.createElement("p");
    note.className = "error";
    note.setAttribute("role", "alert");
    note.textContent = "The server did not answer, so the change may not be saved. Try again, or reload the page.";
    form.querySelector(".form").prepend(note);
  }

  function close() {
    dialog.close();
  }

  dialog.addEventListener("close", () => {
    dialog.replaceChildren(); // what was typed goes, a secret with it
    document.getElementById(opener)?.focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) {
      event.preventDefault();
      close();
    }
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    open(link);
  });
  document.addEventListener("DOMContentLoaded", () => document.body.append(dialog));
})();
