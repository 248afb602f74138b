//! Texts and `tokenizer.json`.

use super::*;

/// Words between blanks, with a token at either end.
const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
"normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"WhitespaceSplit"},
"post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]},"decoder":null,
"model":{"type":"WordLevel","vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":2,"no":3,"yes":4,"well":9},"unk_token":"[UNK]"}}"#;

/// Bytes that are merged, after GPT-2.
#[cfg(feature = "tokenizers")]
const PAIRS: &str = r#"{"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":6,"content":"<end>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
"fuse_unk":false,"vocab":{"y":0,"e":1,"s":2,"es":3,"yes":4,"Ġ":5},"merges":["e s","y es"]}}"#;

fn job(folder: &Folder, json: &str) -> Data {
    let mut data = folder.data("y,said\n0,Yes no\n1,well well yes no\n0,what\n");
    (data.text, data.max_length) = (Some("said".into()), Some(5));
    data.tokenizer = Some(folder.file("tokenizer.json", json));
    data
}

fn refusal(folder: &Folder, data: &Data) -> String {
    let error = read_training(data, &cross_entropy(), 0).unwrap_err();
    error.report().replace(&format!("{}/", folder.0.path().display()), "")
}

#[test]
fn a_tokenizer_needs_texts() {
    let folder = Folder::new();
    let mut data = job(&folder, WORDS);
    (data.text, data.max_length) = (None, None);
    assert_eq!(
        refusal(&folder, &data),
        "`data.tokenizer` is there, but not `data.text`\n  file: train.csv\n  key: data.tokenizer\n  \
         try: name the column of texts with `text = \"NAME\"`, or take it out"
    );
}

#[cfg(not(feature = "tokenizers"))]
#[test]
fn a_program_without_tokenizers_says_how_to_build_one_with_them() {
    let folder = Folder::new();
    assert_eq!(
        refusal(&folder, &job(&folder, WORDS)),
        "this program was built without tokenizers\n  file: tokenizer.json\n  key: data.tokenizer\n  \
         try: build it with the feature: `cargo build --release --package outboard-cli --features tokenizers`"
    );
}

#[cfg(feature = "tokenizers")]
mod with {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    #[test]
    fn texts_become_tokens_that_the_model_file_explains() {
        let folder = Folder::new();
        let mut data = job(&folder, WORDS);
        let Training { schema, train, .. } = read_training(&data, &cross_entropy(), 0).unwrap();
        // Cut before the last token is added.
        assert_eq!(train.x, [1., 5., 4., 2., 0., 1., 10., 10., 5., 2., 1., 3., 2., 0., 0.]);
        let [Feature::Text { tokenizer: Some(tokenizer), .. }] = &schema.features[..] else { panic!("{schema:?}") };
        assert_eq!((tokenizer.tokens, tokenizer.json.as_str()), (10, WORDS));
        // Later files need no tokenizer of their own.
        std::fs::remove_file(data.tokenizer.as_ref().unwrap()).unwrap();
        let schema = serde_json::from_str(&serde_json::to_string(&schema).unwrap()).unwrap();
        assert_eq!(read_labelled(&data.train, None, &schema).unwrap(), train);
        assert_eq!(
            refusal(&folder, &data),
            "cannot read tokenizer.json: no such file or folder\n  file: tokenizer.json\n  key: data.tokenizer\n  \
             try: check the path"
        );
        data = job(&folder, WORDS);
        data.max_length = Some(2);
        assert_eq!(
            refusal(&folder, &data),
            "the tokenizer adds 2 tokens to each text, but `max_length` is 2\n  key: data.max_length\n  \
             file: train.csv\n  try: set it to more than 2, such as 256"
        );
    }

    /// What the library `tokenizers` for Python makes of the same files and texts, where a Python has it.
    #[test]
    fn tokens_are_those_of_the_python_library() {
        #[derive(serde::Deserialize)]
        struct Case {
            tokenizer: PathBuf,
            texts: PathBuf,
            length: usize,
            tokens: Vec<Vec<f32>>,
        }
        let Some(python) = std::env::var_os("TEST_PYTHON") else {
            println!("skipped: tokens_are_those_of_the_python_library: TEST_PYTHON names no Python");
            return;
        };
        let folder = Folder::new();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/make_tokenizers.py");
        let made = std::process::Command::new(python).arg(script).arg(folder.0.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let cases: Vec<Case> = serde_json::from_slice(&made.stdout).unwrap();
        assert!(cases.len() >= 6, "{}", cases.len());
        for Case { tokenizer, texts, length, tokens } in cases {
            let mut data = folder.data("");
            (data.train, data.text, data.max_length) = (texts, Some("said".into()), Some(length));
            data.tokenizer = Some(tokenizer);
            let Training { train, .. } = read_training(&data, &cross_entropy(), 0).unwrap();
            let expected: Vec<f32> = tokens
                .iter()
                .flat_map(|row| row.iter().map(|id| id + 1.0).chain(std::iter::repeat(0.0)).take(length))
                .collect();
            assert_eq!(train.x, expected, "{:?}, {length}", data.tokenizer);
        }
    }

    #[test]
    fn what_is_no_tokenizer() {
        let folder = Folder::new();
        let hint = "save it as `tokenizer.json` with the library `tokenizers`, or `tokenizer.save_pretrained(...)`";
        for (json, why) in
            [("{", "EOF while parsing an object at line 1 co…"), ("{}", "Model missing. at line 1 column 2")]
        {
            assert_eq!(
                refusal(&folder, &job(&folder, json)),
                format!(
                    "it is not a tokenizer that can be read: {why}\n  file: tokenizer.json\n  key: data.tokenizer\n  try: {hint}"
                )
            );
        }
        let unknown = WORDS.replace(r#","unk_token":"[UNK]""#, r#","unk_token":"?""#);
        let text = refusal(&folder, &job(&folder, &unknown));
        assert!(text.starts_with("line 4: no tokens: "), "{text}");
        let mut large = job(&folder, "");
        let file = std::fs::File::create(large.tokenizer.as_ref().unwrap()).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(
            refusal(&folder, &large),
            "a tokenizer of more than 64 MiB\n  file: tokenizer.json\n  key: data.tokenizer\n  try: use a smaller vocabulary"
        );
        large.tokenizer = Some(folder.file("bytes.json", [0xff, 0xfe]));
        assert!(refusal(&folder, &large).starts_with("it is not a tokenizer that can be read: it is not UTF-8 text\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_damaged_tokenizer_is_read_or_refused(
            damage in vec((any::<Index>(), 0..3, any::<u8>()), 1..4),
            text: String,
            original in prop_oneof![Just(WORDS), Just(PAIRS)],
        ) {
            let folder = Folder::new();
            let mut json = original.as_bytes().to_vec();
            for (at, how, byte) in damage {
                let at = at.index(json.len());
                match how {
                    0 => json[at] = byte,
                    1 => drop(json.remove(at)),
                    _ => json.insert(at, byte),
                }
            }
            let mut data = job(&folder, WORDS);
            data.tokenizer = Some(folder.file("damaged.json", json));
            data.train = folder.file("texts.csv", format!("y,said\n0,\"{}\"\n1,yes\n", text.replace('"', "")));
            if let Err(error) = read_training(&data, &cross_entropy(), 0) {
                prop_assert!(error.advice().is_some(), "{}", error.report());
                prop_assert!(error.context().iter().any(|(what, _)| *what == "file"), "{}", error.report());
            }
        }
    }
}
