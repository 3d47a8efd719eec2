//! Reads training and replay data: JSON lines, dialogues, company folders.
