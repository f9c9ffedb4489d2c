//! Highlighting grammars of editors, with the words of the vocabulary.
