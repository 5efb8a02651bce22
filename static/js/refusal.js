// What the server says instead of the expected answer: a sentence as plain text, or the lead of an error page of ours.
"use strict";

function refusalIn(text, type, status) {
  const page = type?.startsWith("text/html") && new DOMParser().parseFromString(text, "text/html");
  const words = page ? page.querySelector(".lead")?.textContent : type?.startsWith("text/plain") ? text : "";
  return words?.trim() || `The server refused this with the status ${status}; its log says why.`;
}
