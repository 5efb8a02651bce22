// Shows in a dialog the form that htmx fetches into it, over the page that keeps refreshing below. Without this script,
// and with a modifier key, the link leads to the same form as a page.
"use strict";

(() => {
  const dialog = document.getElementById("dialog");
  let opener = "";

  dialog.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const { verb, elt } = detail.requestConfig;
    if (verb === "post" && !elt.isConnected) detail.shouldSwap = false; // closed in the meantime: it stays so
  });
  dialog.addEventListener("htmx:afterSwap", ({ detail }) => {
    if (dialog.open) return;
    opener = detail.requestConfig.elt.id;
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    dialog.replaceChildren(); // what was typed goes, a secret with it
    document.getElementById(opener)?.focus(); // perhaps another one by now, with the same id
  });
  dialog.addEventListener("click", (event) => {
    if (!event.target.closest("[data-close]")) return;
    event.preventDefault();
    dialog.close();
  });
  document.addEventListener("click", (event) => {
    const isModified = event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
    if (isModified && event.target.closest("a[hx-get]")) event.stopPropagation(); // the browser's, not htmx's
  }, true);
})();
