//! A recording as carriers send it: WAV of one or two channels, made 8 kHz, 16 bits.

use std::path::Path;

use crate::speech::audio;
use crate::speech::resample::Resampler;
use crate::speech::wav;
use crate::speech::wav::WavError;

/// What telephones carry, in samples a second.
pub const RATE_HZ: u32 = 8_000;

/// A recording at 8 kHz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The samples of each channel, equally many; the customer's is the first unless told otherwise.
    pub channels: Vec<Vec<i16>>,
}

impl Recording {
    /// Reads a WAV file.
    ///
    /// # Errors
    /// When it is none, has more than two channels or a rate that no telephone has.
    pub fn read(path: &Path) -> Result<Recording, WavError> {
        let (samples, rate_hz) = wav::read(path)?;
        let channels = samples.into_iter().map(|channel| {
            let channel: Vec<f32> = channel.iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
            let mut slow = Vec::new();
            Resampler::between(rate_hz, RATE_HZ).take(&channel, &mut slow);
            slow.iter().map(|sample| (sample * 32_767.0) as i16).collect()
        });
        Ok(Recording { channels: channels.collect() })
    }

    /// Returns the length, in milliseconds.
    pub fn length_ms(&self) -> u64 {
        self.channels[0].len() as u64 * 1_000 / u64::from(RATE_HZ)
    }

    /// Returns `count` samples of a channel from position `at` on; behind its end it begins again.
    pub fn samples(&self, channel: usize, at: u64, count: usize) -> Vec<i16> {
        let samples = &self.channels[channel];
        (0..count).map(|n| samples[((at + n as u64) % samples.len() as u64) as usize]).collect()
    }

    /// Returns such samples of all channels, alternating, as µ-law.
    pub fn mulaw(&self, at: u64, count: usize) -> Vec<u8> {
        let channels: Vec<Vec<i16>> = (0..self.channels.len()).map(|c| self.samples(c, at, count)).collect();
        let frames: Vec<i16> = (0..count).flat_map(|n| channels.iter().map(move |c| c[n])).collect();
        audio::to_mulaw(&frames)
    }

    /// Returns such samples of one channel as 16-bit little-endian bytes.
    pub fn linear(&self, channel: usize, at: u64, count: usize) -> Vec<u8> {
        self.samples(channel, at, count).into_iter().flat_map(i16::to_le_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, channels: u16, rate: u32, samples: &[i16]) {
        let spec = hound::WavSpec {
            channels,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
    }

    #[test]
    fn two_channels_alternate_and_begin_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.wav");
        write(&path, 2, 8_000, &[1, -1, 2, -2, 3, -3]);
        let recording = Recording::read(&path).unwrap();
        assert_eq!(recording.channels.len(), 2);
        assert_eq!(recording.samples(1, 2, 3), [-2, 0, -1], "rounded towards zero, and around the end");
        assert_eq!(recording.mulaw(0, 2).len(), 4);
        assert_eq!(recording.linear(0, 0, 3).len(), 6);
    }

    #[test]
    fn other_rates_become_8_khz() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fast.wav");
        write(&path, 1, 16_000, &vec![500; 16_000]);
        let recording = Recording::read(&path).unwrap();
        assert!(recording.length_ms().abs_diff(1_000) < 5, "{}", recording.length_ms());
    }
}
