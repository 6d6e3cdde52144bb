// The API reference: hands the description to Swagger UI, and the token to every request that is tried.

const form = document.getElementById("token-form");
const fault = document.getElementById("fault");
const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

const authorized = (headers) => {
  const token = sessionStorage.getItem("token"); // The live page keeps it there too.
  return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
};

function show(spec) {
  // What is tried goes to where this page came from, whatever prefix a proxy put in front.
  spec.servers = [{ url: new URL(".", location.href).pathname }];
  window.SwaggerUIBundle({
    spec,
    dom_id: "#reference",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    requestInterceptor: (request) => ({ ...request, headers: authorized(request.headers) }),
  });
}

async function load() {
  fault.textContent = "";
  const response = await fetch("schema/openapi.json", { headers: authorized({}), cache: "no-store" });
  form.hidden = response.status !== 401;
  if (response.ok) show(await response.json());
  else if (response.status !== 401) fault.textContent = `The description cannot be read: status ${response.status}.`;
}

function begin() {
  load().catch(() => { fault.textContent = "The server does not answer."; });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", document.getElementById("token").value);
  begin();
});
dark.addEventListener("change", setTheme);
setTheme();
begin();
