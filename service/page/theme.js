// Light or dark, before the first paint. A classic script: modules run after the first paint.
(() => {
  const stored = () => {
    try {
      return localStorage.getItem("at2-theme");
    } catch {
      return null; // storage is switched off: follow the system
    }
  };
  const theme = stored();
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
