// What the prices in the form come to, in step with the typing.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const input = document.getElementById("id_input_usd_per_mtok");
  const output = document.getElementById("id_output_usd_per_mtok");
  const lines = document.querySelectorAll(".price-preview [data-tokens]");
  if (!input || !output) return;

  const words = (usd) => `$${usd.toLocaleString("en-US", { minimumFractionDigits: 2, maximumSignificantDigits: 6 })}`;
  const tell = () => lines.forEach((line) => {
    const [tokensIn, tokensOut] = line.dataset.tokens.split(" ").map(Number);
    const prices = [tokensIn ? input.value : "0", tokensOut ? output.value : "0"];
    const usd = (Number(prices[0]) * tokensIn + Number(prices[1]) * tokensOut) / 1e6;
    line.textContent = prices.every((price) => price.trim()) && Number.isFinite(usd) ? words(usd) : "–";
  });
  [input, output].forEach((field) => field.addEventListener("input", tell));
});
