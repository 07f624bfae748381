{% include "shared/sorting.js" %}

document.getElementById("contours")?.addEventListener("input", event => {
  document.body.classList.toggle("plain", !event.target.checked);
});
document.documentElement.dataset.ready = "yes";
