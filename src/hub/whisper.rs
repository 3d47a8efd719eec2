//! Whisper models in ggml form, as whisper.cpp's author publishes them.
//!
//! Their lengths and checksums are here, at one commit, so nothing is asked of the hub but the file
//! itself, and a hub that sends another file is found out.

use std::path::Path;
use std::path::PathBuf;

use crate::hub::Checksum;
use crate::hub::Hub;
use crate::hub::HubError;
use crate::hub::Listing;
use crate::hub::RemoteFile;
use crate::hub::fetch::Progress;

/// Where the models are.
pub const REPOSITORY: &str = "ggerganov/whisper.cpp";
/// The commit that the lengths and checksums are of.
const COMMIT: &str = "5359861c739e955e79d9a303bcbc70fb988958b1";

/// A model that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhisperModel {
    /// Its name: the size, `.en` for English only, and how its weights are quantized.
    pub name: &'static str,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its file, in hexadecimal digits.
    pub sha256: &'static str,
}

const fn model(name: &'static str, bytes: u64, sha256: &'static str) -> WhisperModel {
    WhisperModel { name, bytes, sha256 }
}

/// All models, by size: whole, then quantized.
#[rustfmt::skip]
pub const MODELS: [WhisperModel; 29] = [
    model("tiny", 77_691_713, "be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21"),
    model("tiny-q5_1", 32_152_673, "818710568da3ca15689e31a743197b520007872ff9576237bda97bd1b469c3d7"),
    model("tiny-q8_0", 43_537_433, "c2085835d3f50733e2ff6e4b41ae8a2b8d8110461e18821b09a15c40c42d1cca"),
    model("tiny.en", 77_704_715, "921e4cf8686fdd993dcd081a5da5b6c365bfde1162e72b08d75ac75289920b1f"),
    model("tiny.en-q5_1", 32_166_155, "c77c5766f1cef09b6b7d47f21b546cbddd4157886b3b5d6d4f709e91e66c7c2b"),
    model("tiny.en-q8_0", 43_550_795, "5bc2b3860aa151a4c6e7bb095e1fcce7cf12c7b020ca08dcec0c6d018bb7dd94"),
    model("base", 147_951_465, "60ed5bc3dd14eea856493d334349b405782ddcaf0028d4b5df4088345fba2efe"),
    model("base-q5_1", 59_707_625, "422f1ae452ade6f30a004d7e5c6a43195e4433bc370bf23fac9cc591f01a8898"),
    model("base-q8_0", 81_768_585, "c577b9a86e7e048a0b7eada054f4dd79a56bbfa911fbdacf900ac5b567cbb7d9"),
    model("base.en", 147_964_211, "a03779c86df3323075f5e796cb2ce5029f00ec8869eee3fdfb897afe36c6d002"),
    model("base.en-q5_1", 59_721_011, "4baf70dd0d7c4247ba2b81fafd9c01005ac77c2f9ef064e00dcf195d0e2fdd2f"),
    model("base.en-q8_0", 81_781_811, "a4d4a0768075e13cfd7e19df3ae2dbc4a68d37d36a7dad45e8410c9a34f8c87e"),
    model("small", 487_601_967, "1be3a9b2063867b937e64e2ec7483364a79917e157fa98c5d94b5c1fffea987b"),
    model("small-q5_1", 190_085_487, "ae85e4a935d7a567bd102fe55afc16bb595bdb618e11b2fc7591bc08120411bb"),
    model("small-q8_0", 264_464_607, "49c8fb02b65e6049d5fa6c04f81f53b867b5ec9540406812c643f177317f779f"),
    model("small.en", 487_614_201, "c6138d6d58ecc8322097e0f987c32f1be8bb0a18532a3f88f734d1bbf9c41e5d"),
    model("small.en-q5_1", 190_098_681, "bfdff4894dcb76bbf647d56263ea2a96645423f1669176f4844a1bf8e478ad30"),
    model("small.en-q8_0", 264_477_561, "67a179f608ea6114bd3fdb9060e762b588a3fb3bd00c4387971be4d177958067"),
    model("medium", 1_533_763_059, "6c14d5adee5f86394037b4e4e8b59f1673b6cee10e3cf0b11bbdbee79c156208"),
    model("medium-q5_0", 539_212_467, "19fea4b380c3a618ec4723c3eef2eb785ffba0d0538cf43f8f235e7b3b34220f"),
    model("medium-q8_0", 823_369_779, "42a1ffcbe4167d224232443396968db4d02d4e8e87e213d3ee2e03095dea6502"),
    model("medium.en", 1_533_774_781, "cc37e93478338ec7700281a7ac30a10128929eb8f427dda2e865faa8f6da4356"),
    model("medium.en-q5_0", 539_225_533, "76733e26ad8fe1c7a5bf7531a9d41917b2adc0f20f2e4f5531688a8c6cd88eb0"),
    model("medium.en-q8_0", 823_382_461, "43fa2cd084de5a04399a896a9a7a786064e221365c01700cea4666005218f11c"),
    model("large-v3-turbo", 1_624_555_275, "1fc70f774d38eb169993ac391eea357ef47c88757ef72ee5943879b7e8e2bc69"),
    model("large-v3-turbo-q5_0", 574_041_195, "394221709cd5ad1f40c46e6031ca61bce88931e6e088c188294c6d5a55ffa7e2"),
    model("large-v3-turbo-q8_0", 874_188_075, "317eb69c11673c9de1e1f0d459b253999804ec71ac4c23c17ecf5fbe24e259a1"),
    model("large-v3", 3_095_033_483, "64d182b440b98d5203c4f9bd541544d84c605196c4f7b845dfa11fb23594d1e2"),
    model("large-v3-q5_0", 1_081_140_203, "d75795ecff3f83b5faa89d1900604ad8c780abd5739fae406de19f23ecd98ad1"),
];

impl WhisperModel {
    /// Returns the model of this name, if it is one of [`MODELS`].
    pub fn named(name: &str) -> Option<WhisperModel> {
        MODELS.into_iter().find(|model| model.name == name)
    }

    /// Returns the name of its file.
    pub fn file_name(&self) -> String {
        format!("ggml-{}.bin", self.name)
    }
}

impl Hub {
    /// Fetches a Whisper model into a folder and returns where its file is; one that is there and right
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Hub::fetch`].
    ///
    /// # Blocking
    /// As long as the download takes.
    pub fn fetch_whisper(
        &self,
        model: &WhisperModel,
        folder: &Path,
        told: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let listing =
            Listing { repository: REPOSITORY.to_owned(), commit: COMMIT.to_owned(), files: Vec::new() };
        let file = RemoteFile {
            name: model.file_name(),
            bytes: model.bytes,
            checksum: Checksum::Sha256(model.sha256.to_owned()),
        };
        self.fetch(&listing, std::slice::from_ref(&file), folder, told)?;
        Ok(folder.join(&file.name))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::io::BufReader;
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    const HELLO: WhisperModel =
        model("hello", 12, "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447");

    /// Answers one request with a body; returns the address, and then what was asked.
    fn site(body: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let head = BufReader::new(&stream).lines().map(|line| line.expect("a line"));
            let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .expect("it is sent");
            head[0].clone()
        });
        (address, asked)
    }

    #[test]
    fn a_model_is_fetched_from_its_commit_and_then_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, asked) = site("hello world\n");
        let hub = Hub::new(&address, None).expect("an address");
        let mut steps = Vec::new();
        let mut told = |progress: Progress<'_>| steps.push((progress.bytes, progress.of));
        let path = hub.fetch_whisper(&HELLO, folder.path(), &mut told).expect("it is fetched");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "hello world\n");
        assert_eq!(path, folder.path().join("ggml-hello.bin"));
        assert_eq!(steps.last(), Some(&(12, 12)));
        let line = asked.join().expect("it was asked");
        assert_eq!(line, format!("GET /{REPOSITORY}/resolve/{COMMIT}/ggml-hello.bin HTTP/1.1"));
        // Nobody answers any more, and nobody needs to.
        hub.fetch_whisper(&HELLO, folder.path(), &mut |_| {}).expect("it is there");
    }

    #[test]
    fn another_file_under_the_name_is_refused_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, _asked) = site("hello there\n");
        let hub = Hub::new(&address, None).expect("an address");
        let result = hub.fetch_whisper(&HELLO, folder.path(), &mut |_| {});
        assert!(matches!(result, Err(HubError::Checksum { file, .. }) if file == "ggml-hello.bin"));
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn models_have_names_and_checksums_of_their_own() {
        for (index, model) in MODELS.iter().enumerate() {
            assert!(model.sha256.len() == 64 && hex::decode(model.sha256).is_ok(), "{}", model.name);
            assert_eq!(WhisperModel::named(model.name), Some(*model));
            let is_same = |other: &WhisperModel| other.name == model.name || other.sha256 == model.sha256;
            assert_eq!(MODELS.iter().position(is_same), Some(index));
        }
        assert_eq!(WhisperModel::named("tiny.de"), None);
    }
}
