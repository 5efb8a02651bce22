// The form of a key with a script: show what is typed, choose the provider by the key's first letters, test at once.
"use strict";

(() => {
  const tell = (form, words) => {
    const note = document.createElement("p");
    note.className = "hint";
    note.textContent = words;
    form.querySelector("[data-result]").replaceChildren(note);
  };

  function prepare(form) {
    if (form.dataset.ready) return;
    form.dataset.ready = "yes";
    const button = form.querySelector("[data-reveal]");
    const secret = button && document.getElementById(button.dataset.reveal);
    if (secret) {
      button.hidden = false;
      button.addEventListener("click", () => reveal(button, secret));
      secret.addEventListener("input", () => recognise(form, secret.value.trim()));
    }
    form.querySelector("[data-try]")?.addEventListener("click", (event) => {
      event.preventDefault();
      test(form, event.currentTarget);
    });
    const date = form.querySelector("[name=expiresAt]");
    date?.addEventListener("input", () => { form.querySelector("#expires-date").checked = true; });
  }

  function reveal(button, secret) {
    const shown = secret.type === "password";
    secret.type = shown ? "text" : "password";
    button.textContent = shown ? "Hide" : "Show";
    button.setAttribute("aria-pressed", String(shown));
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

  async function test(form, button) {
    button.disabled = true;
    tell(form, "Asking the provider …");
    try {
      const answer = await fetch(button.formAction, {
        method: "POST", body: new FormData(form), headers: { "X-Dialog": "1" },
      });
      if (answer.redirected || !answer.ok) throw new Error("no answer");
      const html = new DOMParser().parseFromString(await answer.text(), "text/html");
      form.querySelector("[data-result]").replaceChildren(...html.body.childNodes);
      form.querySelector("[data-lost]")?.remove();
    } catch {
      tell(form, "The server did not answer. Reload the page, and log in if asked.");
    }
    button.disabled = false;
    button.focus();
  }

  window.keyForms = () => document.querySelectorAll("form[data-key-form]").forEach(prepare);
  document.addEventListener("DOMContentLoaded", window.keyForms);
})();
