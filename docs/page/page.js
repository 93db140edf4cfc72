// Shows what this daemon says of itself, and calls it from where the page came from. A token, where one is
// wanted (TCP), is given under "Authorize" and kept by the page alone.
"use strict";

SwaggerUIBundle({
    url: "/openapi.yaml",
    dom_id: "#page",
    deepLinking: true,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    docExpansion: "list",
    validatorUrl: null, // asks nobody else
});
