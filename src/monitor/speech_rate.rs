//! speech_rate
