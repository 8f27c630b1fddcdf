export default { title: "Edit", about: "", models: "images", show() {} };
