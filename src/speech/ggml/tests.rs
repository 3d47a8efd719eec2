//! Files as they should be, and as they should not.

use std::path::Path;

use proptest::prelude::ProptestConfig;
use proptest::prelude::any;
use proptest::proptest;

use super::*;
use crate::speech::ggml::random::RandomShape;
use crate::speech::ggml::random::write_random;

/// Where the first tensor of a random model is told, for 80 mel bands.
fn first_tensor(bytes: &[u8]) -> usize {
    let name = b"encoder.positional_embedding";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("it is there");
    // Its number of dimensions, the name's length, its type, and two dimensions.
    at - 20
}

fn small_model() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.bin");
    write_random(&path, &RandomShape::SMALLEST, 1).expect("it is written");
    let bytes = std::fs::read(&path).expect("it is read");
    (folder, path, bytes)
}

fn fault(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).expect("it is written");
    inspect(path).expect_err("it is refused").fault.to_string()
}

fn with(bytes: &[u8], at: usize, number: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn a_random_model_is_whole_and_the_same_for_a_seed() {
    let (folder, path, bytes) = small_model();
    let header = inspect(&path).expect("it is whole");
    assert_eq!((header.vocab, header.audio_state, header.text_layers, header.mels), (51_864, 64, 1, 80));
    assert!(!header.is_multilingual());
    let other = folder.path().join("other.bin");
    write_random(&other, &RandomShape::SMALLEST, 1).expect("it is written");
    assert_eq!(std::fs::read(&other).expect("it is read"), bytes);
    write_random(&other, &RandomShape { vocab: 51_865, ..RandomShape::SMALLEST }, 2).expect("it is written");
    assert!(inspect(&other).expect("it is whole").is_multilingual());
}

/// Returns the bytes of all tensors of a model in a file.
fn tensors_bytes(header: &WhisperHeader) -> u64 {
    let head = |tensor: &Tensor| 4 * (3 + tensor.dims.len()) as u64 + tensor.name.len() as u64;
    header.tensors().iter().map(|tensor| head(tensor) + tensor.bytes()).sum()
}

#[test]
fn published_models_are_as_long_as_their_tensors_and_one_vocabulary() {
    // Width, heads, layers, how the weights are stored, and the length of ggml-*.en.bin.
    let published = [
        (384, 6, 4, 1, 77_704_715),
        (384, 6, 4, 2009, 32_166_155),
        (384, 6, 4, 2007, 43_550_795),
        (512, 8, 6, 1, 147_964_211),
        (768, 12, 12, 1, 487_614_201),
        (1024, 16, 24, 1, 1_533_774_781),
        (1024, 16, 24, 2008, 539_225_533),
        (1024, 16, 24, 2007, 823_382_461),
    ];
    for (width, heads, layers, ftype, length) in published {
        let numbers = [51_864, 1500, width, heads, layers, 448, width, heads, layers, 80, ftype];
        let header = WhisperHeader::of(numbers).expect("it is sound");
        assert_eq!(length - tensors_bytes(&header), 586_235, "{width} {ftype}");
    }
}

#[test]
fn a_file_that_is_cut_is_named_with_its_length() {
    let (_folder, path, bytes) = small_model();
    let first = first_tensor(&bytes);
    for length in [0, 3, 20, 48, 60, 100_000, first - 1, first + 1, first + 50, bytes.len() - 1] {
        let said = fault(&path, &bytes[..length]);
        assert_eq!(said, format!("it is cut short at byte {length}: fetch it again"));
    }
    assert!(fault(&path, &bytes[..first]).contains("a header and a vocabulary but no weights"));
    // At the end of a tensor, nothing but what is missing tells.
    let second = first + 20 + "encoder.positional_embedding".len() + 64 * 1500 * 4;
    assert!(fault(&path, &bytes[..second]).contains("tensors are missing, encoder.conv1.weight among them"));
}

#[test]
fn another_kind_of_file_is_named() {
    let (folder, path, _) = small_model();
    assert!(fault(&path, b"GGUF and more of it").contains("it begins with \"GGUF\""));
    assert!(fault(&path, b"\x80\x00PK").contains("no Whisper model"));
    let missing = inspect(&folder.path().join("missing.bin")).expect_err("it is not there").to_string();
    assert!(missing.contains("missing.bin: cannot read it"), "{missing}");
    assert!(inspect(folder.path()).is_err());
}

#[test]
fn numbers_that_cannot_be_are_named() {
    let (_folder, path, bytes) = small_model();
    let check = |index: usize, value: u32, expected: &str| {
        let said = fault(&path, &with(&bytes, 4 + 4 * index, value));
        assert!(said.contains(expected), "{said}");
    };
    check(0, 7, "n_vocab is 7, expected 51864 to 51866");
    check(1, u32::MAX, "n_audio_ctx is -1, expected 1 to 1500");
    check(3, 7, "n_audio_head is 7, expected a divisor of 64");
    check(4, 0, "n_audio_layer is 0, expected 1 to 64");
    check(6, 128, "n_text_state is 128, expected 64 as n_audio_state");
    check(9, 1 << 30, "n_mels is 1073741824");
    check(10, 99, "ftype is 99");
    check(10, 2012, "n_audio_state is 64, expected a multiple of 256");
    check(11, 128, "n_mel is 128, expected 80");
    check(12, 400, "n_fft is 400, expected 201");
    let tokens = 4 + 4 * 13 + 80 * 201 * 4;
    let said = fault(&path, &with(&bytes, tokens, u32::MAX));
    assert!(said.contains("number of tokens is -1"), "{said}");
    let said = fault(&path, &with(&bytes, tokens + 4, 1 << 31));
    assert!(said.contains("length of a token is -2147483648"), "{said}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let (_folder, path, bytes) = small_model();
    let first = first_tensor(&bytes);
    let check = |offset: usize, value: u32, expected: &str| {
        let said = fault(&path, &with(&bytes, first + offset, value));
        assert!(said.contains(expected), "{said}");
    };
    check(0, 9, "number of a tensor's dimensions is 9");
    check(4, u32::MAX, "length of a tensor's name is -1");
    check(8, 1, "encoder.positional_embedding has ggml's type 1, expected 0");
    check(12, 65, "encoder.positional_embedding has the shape [65, 1500], expected [64, 1500]");
    check(20, u32::from_le_bytes(*b"xxxx"), "\"xxxxder.positional_embedding\" does not belong there");
    let twice = [&bytes[..], &bytes[first..]].concat();
    assert!(fault(&path, &twice).contains("\"encoder.positional_embedding\" does not belong there"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_file_brings_it_down(garbage in any::<Vec<u8>>(), places in any::<[(u16, u8); 4]>()) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.bin");
        // A sound header, all tokens of no length, then whatever comes.
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        for number in [51_864, 1, 16, 1, 1, 32, 16, 1, 1, 1, 1, 1, FREQUENCIES] {
            bytes.extend(u32::to_le_bytes(number));
        }
        bytes.extend([0; 201 * 4]);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(&garbage);
        for (place, byte) in places {
            let place = usize::from(place) % bytes.len();
            bytes[place] = byte;
        }
        for bytes in [&bytes, &garbage] {
            std::fs::write(&path, bytes).expect("it is written");
            assert!(inspect(&path).is_err());
        }
    }
}
