//! WAV files to samples: one or two channels, any usual form of sample.

use std::path::Path;
use std::path::PathBuf;

/// The longest recording that is read, in samples of all channels: four hours of stereo at 48 kHz.
const SAMPLES_MAX: u32 = 4 * 3_600 * 48_000 * 2;

/// Says why a file is no recording that can be used.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// It cannot be read, or is no WAV file.
    #[error("cannot read {} as WAV", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: hound::Error,
    },
    /// It has a form that no call has.
    #[error(
        "{}: expected one or two channels at 8 to 48 kHz and at most four hours, found {channels} at {rate_hz} Hz",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// Its channels.
        channels: u16,
        /// Its samples a second.
        rate_hz: u32,
    },
    /// It is empty.
    #[error("{} holds no samples", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Returns the samples of each channel of a WAV file, equally many, and their rate in samples a second.
///
/// # Errors
/// When it is none, has more than two channels, no samples or too many.
pub fn read(path: &Path) -> Result<(Vec<Vec<i16>>, u32), WavError> {
    let unreadable = |source| WavError::Unreadable { path: path.to_owned(), source };
    let mut reader = hound::WavReader::open(path).map_err(unreadable)?;
    let hound::WavSpec { channels, sample_rate: rate_hz, bits_per_sample: bits, sample_format } =
        reader.spec();
    let is_known = matches!(channels, 1 | 2) && (8_000..=48_000).contains(&rate_hz);
    if !is_known || reader.len() > SAMPLES_MAX {
        return Err(WavError::Form { path: path.to_owned(), channels, rate_hz });
    }
    let samples: Result<Vec<i16>, hound::Error> = match sample_format {
        hound::SampleFormat::Float => {
            let samples = reader.samples::<f32>();
            samples.map(|sample| sample.map(|sample| (sample.clamp(-1.0, 1.0) * 32_767.0) as i16)).collect()
        }
        hound::SampleFormat::Int => {
            reader.samples::<i32>().map(|sample| sample.map(|sample| scaled(sample, bits))).collect()
        }
    };
    let (samples, count) = (samples.map_err(unreadable)?, usize::from(channels));
    if samples.len() < count {
        return Err(WavError::Empty { path: path.to_owned() });
    }
    let channel = |at: usize| samples.chunks_exact(count).map(|frame| frame[at]).collect();
    Ok(((0..count).map(channel).collect(), rate_hz))
}

/// Returns a sample of so many bits as one of 16.
fn scaled(sample: i32, bits: u16) -> i16 {
    match bits {
        0..=16 => (sample << (16 - bits)) as i16,
        _ => (sample >> (bits - 16)) as i16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, channels: u16, bits: u16, samples: &[i32]) {
        let spec = hound::WavSpec {
            channels,
            sample_rate: 8_000,
            bits_per_sample: bits,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
    }

    #[test]
    fn channels_come_apart_and_every_width_is_made_16_bits() {
        let folder = tempfile::tempdir().unwrap();
        for (bits, factor) in [(16, 1), (24, 256), (32, 65_536)] {
            let path = folder.path().join("two.wav");
            write(&path, 2, bits, &[100 * factor, -7 * factor, 200 * factor, -9 * factor]);
            assert_eq!(read(&path).unwrap(), (vec![vec![100, 200], vec![-7, -9]], 8_000), "{bits} bits");
        }
    }

    #[test]
    fn what_is_no_recording_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.wav");
        std::fs::write(&path, "no wave at all").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("text.wav"));
        write(&path, 1, 16, &[]);
        assert!(read(&path).unwrap_err().to_string().contains("no samples"));
        write(&path, 3, 16, &[1, 2, 3]);
        assert!(read(&path).unwrap_err().to_string().contains("found 3"));
    }
}
