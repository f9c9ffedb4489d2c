//! Guest images: recipes, the builder and the content-addressed store.
