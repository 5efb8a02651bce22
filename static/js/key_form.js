// The form of a key with a script: show what is typed, choose the provider by the key's first letters, and say why when
// what htmx sent was refused or not answered.
"use strict";

(() => {
  document.addEventListener("htmx:load", ({ target }) => {
    target.querySelectorAll("[data-reveal]").forEach((button) => { button.hidden = false; });
  });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-reveal]");
    if (button) reveal(button, document.getElementById(button.dataset.reveal));
  });
  document.addEventListener("input", ({ target }) => {
    if (target.name === "apiKey") recognise(target.form, target.value.trim());
    if (target.name === "expiresAt") document.getElementById("expires-date").checked = true;
  });

  function reveal(button, secret) {
    const shown = secret.type === "password";
    secret.type = shown ? "text" : "password";
    button.textContent = shown ? "Hide" : "Show";
  }

  // The longest first letters decide: sk-or-v1- is OpenRouter although sk- is OpenAI.
  function recognise(form, text) {
    let best = "";
    for (const radio of form.querySelectorAll("[name=provider]")) {
      for (const prefix of radio.dataset.prefixes.split(" ").filter(Boolean)) {
        if (text.startsWith(prefix) && prefix.length > best.length) {
          best = prefix;
          radio.checked = true;
        }
      }
    }
  }

  // What comes from another address than the one asked is the login: it does not belong into a form.
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const [asked, answered] = [detail.pathInfo.requestPath, detail.pathInfo.responsePath];
    if (asked.split("?")[0] !== answered.split("?")[0]) Object.assign(detail, { shouldSwap: false, isError: true });
  });
  for (const name of ["htmx:responseError", "htmx:sendError"]) document.addEventListener(name, failed);

  function failed({ target, detail: { xhr } }) {
    if (target.matches("a")) {
      location.assign(target.href); // logged out, or no longer there: the page says which
      return;
    }
    const note = document.createElement("p");
    note.className = "error";
    note.setAttribute("role", "alert");
    note.textContent = wordsFor(xhr, target.matches("form"));
    if (target.matches("form")) {
      target.querySelector(".form > .error")?.remove();
      target.querySelector(".form").prepend(note);
    } else if (target.matches("[hx-target='#tried']")) {
      document.getElementById("tried").replaceChildren(note);
    }
  }

  function wordsFor(xhr, saves) {
    if (!xhr.status) {
      return `The server did not answer${saves ? ", so the change may not be saved" : ""}. Try again, or reload the page.`;
    }
    if (xhr.status < 400) return "You are no longer logged in. Reload the page and log in; nothing was saved.";
    return refusalIn(xhr.responseText, xhr.getResponseHeader("Content-Type"), xhr.status);
  }
})();
