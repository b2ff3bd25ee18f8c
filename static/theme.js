// Before first paint: the theme that this browser chose, else the one that the system prefers, as data-theme on <html>.
(function () {
  var system = matchMedia("(prefers-color-scheme: dark)");
  function apply() {
    var saved = null;
    try {
      saved = localStorage.getItem("assay:theme");
    } catch (error) {
      saved = null; // a browser that refuses storage follows the system
    }
    document.documentElement.dataset.theme = saved === "dark" || saved === "light" ? saved : system.matches ? "dark" : "light";
  }
  apply();
  system.addEventListener("change", apply);
  addEventListener("storage", apply);
  addEventListener("assay:theme", apply);
})();
