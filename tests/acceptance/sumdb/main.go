// Asks Go's golang.org/x/mod/sumdb, which the Go command itself trusts, what it makes of notes, proofs and tiles.
//
// Reads a JSON array of cases from standard input and writes one line for each: "accepted", or "refused: " and why.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Kind   string   // note, inclusion, consistency or tiles
	Keys   []string // note: verifier keys
	Note   []byte   // note: the signed note
	Text   string   // note: the text that it must have
	Entry  []byte   // inclusion: the entry itself
	Index  int64    // inclusion
	First  int64    // consistency: the smaller size
	Size   int64    // the size of the tree
	Root   []byte   // its root
	Begun  []byte   // consistency: the smaller tree's root
	Proof  [][]byte // inclusion, consistency
	Folder string   // tiles: where they are
	Leaves [][]byte // tiles: the entry of each index of Places
	Places []int64  // tiles
}

func hash(octets []byte) (h tlog.Hash) {
	if len(octets) != tlog.HashSize {
		panic("a hash has 32 bytes")
	}
	copy(h[:], octets)
	return h
}

func hashes(all [][]byte) (hs []tlog.Hash) {
	for _, each := range all {
		hs = append(hs, hash(each))
	}
	return hs
}

func (q question) verdict() (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	switch q.Kind {
	case "note":
		return q.note()
	case "inclusion":
		return tlog.CheckRecord(hashes(q.Proof), q.Size, hash(q.Root), q.Index, tlog.RecordHash(q.Entry))
	case "consistency":
		return tlog.CheckTree(hashes(q.Proof), q.Size, hash(q.Root), q.First, hash(q.Begun))
	case "tiles":
		return q.tiles()
	}
	return fmt.Errorf("there is no case of the kind %q", q.Kind)
}

func (q question) note() error {
	var verifiers []note.Verifier
	for _, key := range q.Keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return err
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open(q.Note, note.VerifierList(verifiers...))
	if err != nil {
		return err
	}
	if opened.Text != q.Text {
		return fmt.Errorf("the note has another text")
	}
	return nil
}

// tiles reads leaf hashes through the reader of x/mod, which checks each tile against the root.
func (q question) tiles() error {
	tree := tlog.Tree{N: q.Size, Hash: hash(q.Root)}
	reader := tlog.TileHashReader(tree, folder(q.Folder))
	for at, place := range q.Places {
		found, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, place)})
		if err != nil {
			return err
		}
		if found[0] != tlog.RecordHash(q.Leaves[at]) {
			return fmt.Errorf("leaf %d is another entry", place)
		}
		proof, err := tlog.ProveRecord(q.Size, place, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, q.Size, tree.Hash, place, found[0]); err != nil {
			return err
		}
	}
	return nil
}

// folder reads tiles that lie as c2sp.org/tlog-tiles has them. x/mod writes a path with the height before the level.
type folder string

func (f folder) Height() int { return 8 }

func (f folder) ReadTiles(tiles []tlog.Tile) (contents [][]byte, err error) {
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(string(f), filepath.FromSlash(path)))
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func main() {
	var questions []question
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&questions); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var answers bytes.Buffer
	for _, each := range questions {
		if err := each.verdict(); err != nil {
			fmt.Fprintf(&answers, "refused: %q\n", err.Error())
		} else {
			fmt.Fprintln(&answers, "accepted")
		}
	}
	os.Stdout.Write(answers.Bytes())
}
