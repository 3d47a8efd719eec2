//! Bytes of a carrier to samples: G.711 and 16-bit linear, one speaker at a time.

use audio_codec_algorithms::decode_alaw;
use audio_codec_algorithms::decode_ulaw;
use audio_codec_algorithms::encode_ulaw;

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// G.711 µ-law, 8 bits.
    Mulaw,
    /// G.711 A-law, 8 bits.
    Alaw,
    /// Signed 16 bits, little-endian.
    Linear16,
}

impl Encoding {
    /// Returns the bytes of one sample of one channel.
    pub fn sample_bytes(self) -> usize {
        match self {
            Encoding::Mulaw | Encoding::Alaw => 1,
            Encoding::Linear16 => 2,
        }
    }
}

/// Returns the samples of one of `channels` channels whose samples alternate in `bytes`, from −1 to 1.
/// A cut sample at the end is left out.
pub fn decode(bytes: &[u8], encoding: Encoding, channel: usize, channels: usize) -> Vec<f32> {
    let width = encoding.sample_bytes();
    let frames = bytes.chunks_exact(width * channels.max(1));
    let samples = frames.map(|frame| {
        let sample = &frame[channel * width..][..width];
        match encoding {
            Encoding::Mulaw => decode_ulaw(sample[0]),
            Encoding::Alaw => decode_alaw(sample[0]),
            Encoding::Linear16 => i16::from_le_bytes([sample[0], sample[1]]),
        }
    });
    samples.map(|sample| f32::from(sample) / 32_768.0).collect()
}

/// Returns 16-bit samples as µ-law bytes.
pub fn to_mulaw(samples: &[i16]) -> Vec<u8> {
    samples.iter().map(|&sample| encode_ulaw(sample)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mulaw_comes_back_within_its_steps() {
        for sample in [0i16, 1, -1, 100, -100, 1_000, -5_000, 20_000, -32_000] {
            let back = decode(&to_mulaw(&[sample]), Encoding::Mulaw, 0, 1)[0] * 32_768.0;
            let step = f32::from(sample).abs() / 16.0 + 8.0;
            assert!((back - f32::from(sample)).abs() <= step, "{sample} came back as {back}");
        }
    }

    #[test]
    fn channels_alternate() {
        let bytes: Vec<u8> = [1i16, -2, 3, -4].iter().flat_map(|s| s.to_le_bytes()).collect();
        let of = |channel| {
            let samples = decode(&bytes, Encoding::Linear16, channel, 2);
            samples.iter().map(|s| s * 32_768.0).collect::<Vec<_>>()
        };
        assert_eq!(of(0), [1.0, 3.0]);
        assert_eq!(of(1), [-2.0, -4.0]);
    }

    #[test]
    fn silence_is_silent_in_every_encoding() {
        assert_eq!(decode(&[0xFF, 0x7F], Encoding::Mulaw, 0, 1), [0.0, 0.0]);
        assert!(decode(&[0xD5], Encoding::Alaw, 0, 1)[0].abs() < 0.001);
        assert_eq!(decode(&[0, 0, 7], Encoding::Linear16, 0, 1), [0.0]);
    }
}
