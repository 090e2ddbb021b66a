// Verifies an auditor's kit with Go's own transparency log, golang.org/x/mod/sumdb: the code that the go command trusts
// when it downloads modules. This file only opens files and hands them over.
//
//	verify [-key FILE] [-held CHECKPOINT] KIT
//
// FILE holds the log's verifier key: take the one that came to you on another way than the kit. CHECKPOINT is one that
// you kept from an earlier visit: the kit has to continue it.
package main

import (
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// kit is a folder as c2sp.org/tlog-tiles has it. x/mod writes a path with the tile's height before its level.
type kit string

func (k kit) Height() int                      { return 8 }
func (k kit) SaveTiles([]tlog.Tile, [][]byte)  {}
func (k kit) read(path string) ([]byte, error) { return os.ReadFile(filepath.Join(string(k), path)) }
func (k kit) ReadTiles(tiles []tlog.Tile) (contents [][]byte, err error) {
	for _, tile := range tiles {
		content, err := k.read(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

// head opens a signed checkpoint: origin, size and root are its first three lines.
func head(signed []byte, keys []note.Verifier) (tree tlog.Tree, err error) {
	opened, err := note.Open(signed, note.VerifierList(keys...))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != keys[0].Name() {
		return tree, fmt.Errorf("this is the checkpoint of another log")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tree, fmt.Errorf("the checkpoint has no root")
	}
	copy(tree.Hash[:], root)
	return tree, nil
}

// entries compares each entry of a bundle with its hash in the tree; reader checks the hashes against the signed root.
func entries(k kit, tree tlog.Tree, reader tlog.HashReader, first int64) error {
	width := min(256, tree.N-first)
	tile := tlog.Tile{H: 8, L: -1, N: first / 256, W: int(width)}
	content, err := k.read(strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1))
	if err != nil {
		return err
	}
	indexes := make([]int64, width)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, first+int64(i))
	}
	hashes, err := reader.ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i, hash := range hashes {
		if len(content) < 2 || len(content)-2 < int(content[0])<<8+int(content[1]) {
			return fmt.Errorf("entry %d is cut off", first+int64(i)+1)
		}
		end := 2 + int(content[0])<<8 + int(content[1])
		if tlog.RecordHash(content[2:end]) != hash {
			return fmt.Errorf("entry %d is not the one that was signed", first+int64(i)+1)
		}
		content = content[end:]
	}
	if len(content) > 0 {
		return fmt.Errorf("there is something behind entry %d", first+width)
	}
	return nil
}

func verify(k kit, keyFile, heldFile string) (string, error) {
	if keyFile == "" {
		keyFile = filepath.Join(string(k), "verifier-key.txt")
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return "", err
	}
	var keys []note.Verifier
	for _, line := range strings.Fields(string(text)) {
		key, err := note.NewVerifier(line)
		if err != nil {
			return "", err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return "", fmt.Errorf("%s holds no key", keyFile)
	}
	signed, err := k.read("checkpoint")
	if err != nil {
		return "", err
	}
	tree, err := head(signed, keys)
	if err != nil {
		return "", err
	}
	reader := tlog.TileHashReader(tree, k)
	if heldFile != "" {
		signed, err := os.ReadFile(heldFile)
		if err != nil {
			return "", err
		}
		held, err := head(signed, keys)
		if err != nil {
			return "", fmt.Errorf("the checkpoint that you kept: %v", err)
		}
		if held.N > tree.N {
			return "", fmt.Errorf("the kit has %d entries, and you kept a checkpoint of %d: its tail is cut", tree.N, held.N)
		}
		proof, err := tlog.ProveTree(tree.N, held.N, reader)
		if err != nil {
			return "", err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, held.N, held.Hash); err != nil {
			return "", fmt.Errorf("the kit does not continue the checkpoint that you kept: %v", err)
		}
	}
	for first := int64(0); first < tree.N; first += 256 {
		if err := entries(k, tree, reader, first); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("accepted: %d entries of %s", tree.N, keys[0].Name()), nil
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func main() {
	keyFile := flag.String("key", "", "file with the log's verifier key; by default the kit's own")
	heldFile := flag.String("held", "", "a checkpoint that you kept")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	verdict, err := verify(kit(flag.Arg(0)), *keyFile, *heldFile)
	if err != nil {
		fmt.Println("REFUSED:", err)
		os.Exit(1)
	}
	fmt.Println(verdict)
}
